"""The working process and the one that waits for it: signals, exit statuses, output of native code, the terminal."""
