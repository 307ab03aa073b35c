"""What a run counted, and whether it adds up: read = predicted + failed."""
