"""Bundled models: weights, the recipe that trained them, and a card with measured figures."""
