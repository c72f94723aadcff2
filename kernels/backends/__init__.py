"""One file a way of computing attention; `eager` is the plain one that the others are held against."""
