"""Head ablation: the run, what it shares, its result, and the result as files, tables and text."""
