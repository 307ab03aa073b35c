"""Prices of a job's machines, with their source and date: the one place that knows prices."""

from __future__ import annotations

# Dataflow, batch, us-central1; https://cloud.google.com/dataflow/pricing, taken from dataflow_cost_consts in apache_beam.testing.load_tests
# of Apache Beam 2.77.0. Other regions, discounts and FlexRS have other prices.
SOURCE = "Dataflow as Apache Beam 2.77.0 lists them"
READ_ON = "2026-11-26"
REGION = "us-central1"
DOLLARS_PER_VCPU_HOUR = 0.056
DOLLARS_PER_GB_HOUR = 0.003557
DOLLARS_PER_DISK_GB_HOUR = 0.000054
DISK_GB = 25  # a worker's, where the job uses Dataflow Shuffle

# Machine types by memory, the smallest first: name, vCPUs, GB.
MACHINES = (("n2-standard-4", 4, 16), ("n2-highmem-4", 4, 32), ("n2-highmem-8", 8, 64), ("n2-highmem-16", 16, 128))


def dollars_per_hour(vcpus: int, memory_gb: int) -> float:
    """Return the price of one worker for an hour, in US dollars."""
    return vcpus * DOLLARS_PER_VCPU_HOUR + memory_gb * DOLLARS_PER_GB_HOUR + DISK_GB * DOLLARS_PER_DISK_GB_HOUR
