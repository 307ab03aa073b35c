"""All that can be known before a job starts."""
