"""Values of rows ↔ the columns that a model is fed and gives."""
