"""Pictures of coloured shapes, questions about them, and what `mini-vlm` is measured by."""
