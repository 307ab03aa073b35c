"""Lists of files, each an instance."""
