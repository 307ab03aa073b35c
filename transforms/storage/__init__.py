"""Files on a disk or in a bucket: find, open and replace them, and notice when one changed."""
