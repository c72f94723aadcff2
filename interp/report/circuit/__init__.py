"""The picture of a circuit: own layered layout, SVG that stands by itself, and figures of how faithful it is."""
