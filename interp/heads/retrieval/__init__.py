"""Scorers of heads that fetch facts out of long texts."""
