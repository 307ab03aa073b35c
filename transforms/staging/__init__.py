"""What lies in staging until the gate opens: shards, failed rows, records of finished splits."""
