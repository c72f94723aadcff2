"""Exact incremental re-execution: the same numbers as a full forward a variant, from only what can change."""
