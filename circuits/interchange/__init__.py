"""Scores and circuits as files of other tools: MIB importance files, attribution graphs, GraphML and DOT."""
