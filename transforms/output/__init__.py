"""An output folder: locked, changed as a whole by a journal, described by its manifest."""
