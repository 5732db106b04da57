"""The commands of `online-swav`, one file per family. Each returns an exit code."""
