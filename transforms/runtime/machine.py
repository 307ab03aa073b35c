"""What this machine, or the container this runs in, has: cores and memory."""

from __future__ import annotations

import os

# Both kinds of control groups, as a container sees its own.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CPU_LIMIT = "/sys/fs/cgroup/cpu.max"
CPU_QUOTA, CPU_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


def memory_bytes() -> int:
    """Gives the memory that there is for this process and those beside it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in MEMORY_LIMITS:
        limits = _numbers(path)
        memory = min(memory, *limits) if limits else memory
    return memory


def cores() -> int:
    """Gives the cores that this process may keep busy: more threads than a container's limit, 2 on a machine of 64, would only wait."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = [*_numbers(CPU_LIMIT), *_numbers(CPU_QUOTA), *_numbers(CPU_PERIOD), 0, 0][:2]
    return min(there, max(1, quota // period)) if quota > 0 and period > 0 else there


def resident_bytes() -> int:
    """Gives the memory that this process takes now; 0 where that can't be told."""
    pages = _numbers("/proc/self/statm")
    return pages[1] * os.sysconf("SC_PAGE_SIZE") if pages else 0


def _numbers(path: str) -> list[int]:
    """Gives the numbers that the file holds; none where it is not there, or holds a word: ``max``."""
    try:
        with open(path, encoding="ascii") as file:
            return list(map(int, file.read().split()))
    except (OSError, ValueError):
        return []
