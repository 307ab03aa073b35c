"""The program: commands, a run from options to exit status, the graph."""
