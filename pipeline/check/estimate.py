"""The estimate of a whole job on Dataflow: hours and dollars as ranges, with their assumptions."""

from __future__ import annotations

import dataclasses
import math

from pipeline.check import prices
from pipeline.check.sample import InputPlan, Sample

# The duration to aim for: in half an hour start-up is a small part, and a lost worker costs little.
AIMED_SECONDS = 1800
# A process with Beam and TensorFlow, before any model: measured at 640 to 680 MB.
PROCESS_MB = 700
USABLE_MEMORY = 0.8
FASTER, SLOWER = 1.5, 0.5
START_MINUTES = (3.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Workers, machine type, hours and US dollars from low to high, and the ``assumptions`` behind them."""

    workers: int
    machine_type: str
    hours: tuple[float, float]
    dollars: tuple[float, float]
    assumptions: tuple[str, ...]


def estimate(sample: Sample, plan: InputPlan) -> Estimate | None:
    """Estimate workers, machine type, hours and dollars of the whole input on Dataflow; None where nothing was measured."""
    if sample.speed is None:
        return None
    core_seconds = sample.rows_in_input * sample.speed.total / 1000
    process_mb = PROCESS_MB + sample.model_mb
    name, vcpus, memory_gb = next(
        (machine for machine in prices.MACHINES if machine[1] * process_mb <= machine[2] * 1024 * USABLE_MEMORY), prices.MACHINES[-1]
    )
    workers = max(1, min(math.ceil(core_seconds / vcpus / AIMED_SECONDS), math.ceil(plan.splits / vcpus)))
    work_hours = core_seconds / vcpus / workers / 3600
    hours = (work_hours / FASTER + START_MINUTES[0] / 60, work_hours / SLOWER + START_MINUTES[1] / 60)
    hourly = workers * prices.dollars_per_hour(vcpus, memory_gb)
    return Estimate(
        workers,
        name,
        hours,
        (hours[0] * hourly, hours[1] * hourly),
        (
            f"the rows of the sample are like the others; one core of a worker is {SLOWER} to {FASTER} times as fast as this machine's",
            f"one process a core, {process_mb:,.0f} MB each ({PROCESS_MB} MB and the model)",
            f"{START_MINUTES[0]:.0f} to {START_MINUTES[1]:.0f} minutes until workers work; no time lost to a bucket's or network's limits",
            f"prices of {prices.SOURCE}, read on {prices.READ_ON}, batch in {prices.REGION}: {prices.DOLLARS_PER_VCPU_HOUR} a vCPU-hour, "
            f"{prices.DOLLARS_PER_GB_HOUR} a GB-hour, {prices.DOLLARS_PER_DISK_GB_HOUR:f} a disk GB-hour; storage and network not counted",
        ),
    )
