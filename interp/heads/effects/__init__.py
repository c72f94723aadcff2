"""Scorers of what heads do to the answer."""
