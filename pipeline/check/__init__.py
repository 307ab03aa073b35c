"""``nightshift check``: a sample of the rows through the model, what does not fit it, and what the job would cost."""
