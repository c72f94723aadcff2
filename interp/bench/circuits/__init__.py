"""`interp bench circuits`: every way to score edges, held against every edge that is known to be true."""
