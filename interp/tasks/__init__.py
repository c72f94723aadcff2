"""Tasks: one file each, found by name."""
