"""Values of rows ↔ the columns that a model takes and returns."""
