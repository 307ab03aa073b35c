"""BigQuery: tables and queries read as streams, predictions loaded into a table."""
