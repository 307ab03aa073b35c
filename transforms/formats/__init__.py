"""File formats: one folder each, with its reader and its writer."""
