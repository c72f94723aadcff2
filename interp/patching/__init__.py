"""Patching and path patching: both runs of a pair, what is put where, the result, and the result as files and text."""
