"""Files of a disk or a bucket: find, open, replace, and know whether one changed."""
