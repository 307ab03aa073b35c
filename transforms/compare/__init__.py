"""This run compared with another model or an earlier run."""
