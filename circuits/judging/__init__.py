"""What judges rankings of edges and the circuits cut from them: numbers, baselines, tests, and the search for redundancy."""
