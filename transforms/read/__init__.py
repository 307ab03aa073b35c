"""From patterns to splits to batches of instances: one file a format."""
