"""Files in staging until a run is published: shards, failed rows, records of finished splits."""
