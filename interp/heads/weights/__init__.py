"""Scorers of what weights alone say."""
