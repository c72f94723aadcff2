"""Scorers of where heads look."""
