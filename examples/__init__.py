"""Small programs that show the job at work on real data."""
