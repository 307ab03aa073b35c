"""PTransforms of the job and the functions they wire; nothing here imports ``pipeline``."""
