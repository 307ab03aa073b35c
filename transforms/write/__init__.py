"""From batches of predictions to staged shards to published output."""
