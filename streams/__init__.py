"""Shards in, batches of crops out. This package knows no model and imports nothing of one."""
