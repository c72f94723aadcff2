"""The bundled language models: their tokenizer, what they read, and what they are asked."""
