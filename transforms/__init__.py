"""The verbs of the graph, one PTransform a file; the folders are what the verbs know. Nothing here imports ``pipeline``."""
