"""Rules of one row, whatever its format: its key, the code of its failure, the fields that a job takes."""
