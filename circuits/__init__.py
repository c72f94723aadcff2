"""Methods: evidence, results, and everything on the computational graph."""
