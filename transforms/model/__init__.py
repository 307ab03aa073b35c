"""From batches of instances to batches of predictions."""
