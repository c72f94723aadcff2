"""Maps made of attention patterns alone, or of patterns and values."""
