"""``report.html`` and ``statistics.json``: what a run did and saw, for a person and for machines."""
