"""The worker process: memory, cores, threads, counters, temporary folders."""
