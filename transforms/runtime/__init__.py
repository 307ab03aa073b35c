"""The process that works: memory, cores, threads, counters, temporary folders."""
