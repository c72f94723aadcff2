"""How each bundled model was made: data, tokenizer, architecture, schedule. One file a model."""
