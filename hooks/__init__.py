"""Everything that knows a model: the only home of transformers and transformer_lens imports."""
