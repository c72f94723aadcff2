"""Text that a model writes with interventions in force, token by token, from a cache of keys and values."""
