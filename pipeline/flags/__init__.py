"""argv and job files → checked options → specs."""
