"""Numbers that judge rankings of edges and the circuits cut from them; no model is run."""
