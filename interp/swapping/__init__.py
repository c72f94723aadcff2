"""Which heads need full attention: every head under every mask class, the cheapest configuration, and its controls."""
