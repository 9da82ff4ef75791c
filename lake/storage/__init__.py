"""The one seam for every touch of a lake's files: what a store can do, and the disk as one."""
