"""Scorers of heads that move an answer to where it is given."""
