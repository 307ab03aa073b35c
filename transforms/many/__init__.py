"""More than one model in a run: a map of tasks, or a model named by each row."""
