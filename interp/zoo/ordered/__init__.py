"""Models trained to order: their training, their files, and how they are measured."""
