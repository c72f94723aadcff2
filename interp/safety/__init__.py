"""Safety heads: which heads make a model refuse, what refuses without them, and what that costs."""
