"""Circuit discovery: from a task to a circuit that is judged on other prompts; its result, its text and figures."""
