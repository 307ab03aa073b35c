"""Statistics of rows, predictions and effort: gathered in the same pass, merged, described."""
