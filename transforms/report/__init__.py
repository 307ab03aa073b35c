"""report.html and statistics.json."""
