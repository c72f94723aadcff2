"""How each kind of model is opened: Hugging Face families and TransformerLens bridges."""
