"""Benchmarks: what the toolkit's speed claims are measured with."""
