"""``nightshift check``: a sample of the rows through the model, and what to do about what it shows."""
