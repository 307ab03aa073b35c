"""SavedModels: found, checked, loaded, shared and called; the only room that imports TensorFlow."""
