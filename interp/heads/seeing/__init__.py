"""Scorers of heads that bring what a picture shows into a text."""
