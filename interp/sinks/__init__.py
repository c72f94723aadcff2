"""Attention sinks: where they are, by four criteria that may disagree, and what they are for, by cause."""
