"""The SwAV method in pure torch: no Ray, no files, no sockets, no process groups, no streams."""
