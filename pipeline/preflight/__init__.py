"""Checks of all that can be known before a job starts: model, input, output, engine."""
