"""The computational graph of a model: what writes into the residual stream, what reads it, and the edges between."""
