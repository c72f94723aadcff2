"""Executors: who computes the shards of a sweep. All of them give the same numbers."""
