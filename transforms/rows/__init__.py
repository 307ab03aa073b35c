"""Rules of one row, whatever its format: its key, the code of its failure, what a job takes from it."""
