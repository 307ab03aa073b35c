"""What the rows and predictions of a job look like, and what they took: gathered in the same pass, merged, described."""
