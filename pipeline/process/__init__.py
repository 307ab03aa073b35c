"""The working process and the one that waits for it: signals, exit statuses, what native code prints."""
