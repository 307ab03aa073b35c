"""Cores and memory of this machine, or of the container that this process runs in."""

from __future__ import annotations

import os

# Of control groups version 2 and 1, by the paths that a container sees of its own.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CPU_LIMIT = "/sys/fs/cgroup/cpu.max"
CPU_QUOTA, CPU_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


def memory_bytes() -> int:
    """Return the memory in bytes that this process and those beside it can use together."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in MEMORY_LIMITS:
        limits = _numbers(path)
        memory = min(memory, *limits) if limits else memory
    return memory


def cores() -> int:
    """Return how many cores this process can use: threads above a container's limit, such as 2 on a machine of 64, only wait."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = [*_numbers(CPU_LIMIT), *_numbers(CPU_QUOTA), *_numbers(CPU_PERIOD), 0, 0][:2]
    return min(usable, max(1, quota // period)) if quota > 0 and period > 0 else usable


def resident_bytes() -> int:
    """Return the memory in bytes that this process uses now; 0 where the system does not tell."""
    pages = _numbers("/proc/self/statm")
    return pages[1] * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _numbers(path: str) -> list[int]:
    """Return the numbers in a file; an empty list if it is missing or holds a word, such as ``max``."""
    try:
        with open(path, encoding="ascii") as file:
            return list(map(int, file.read().split()))
    except (OSError, ValueError):
        return []
