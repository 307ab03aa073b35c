"""Output folders: their locks, their change as a whole by a journal, their manifest."""
