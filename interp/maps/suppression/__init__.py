"""Maps made of runs in which one token counts less."""
