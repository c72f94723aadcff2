"""Scores of edges: what each one does to a metric, by every method, under one sign: positive where the edge helps."""
