"""Direct logit attribution: the run, its result, and the result as files and text."""
