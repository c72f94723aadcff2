"""What models that see do with a picture: which token shows which part of it, and what heads make of it."""
