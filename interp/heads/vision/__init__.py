"""Heads of vision towers: where on the picture they look, and what they are worth."""
