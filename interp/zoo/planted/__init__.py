"""Models whose weights are written by hand: how they are written, saved, asked and measured."""
