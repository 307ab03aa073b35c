"""``nightshift serve``: jobs over HTTP."""
