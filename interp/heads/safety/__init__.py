"""Scorers of heads, and of experts, that make a model refuse."""
