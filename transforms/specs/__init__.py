"""Frozen values that check themselves: a job, a run, a model, a signature, a table's name; neither Beam nor TensorFlow."""
