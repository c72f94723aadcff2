"""The command `interp`: one file a verb; each parses, calls and prints."""
