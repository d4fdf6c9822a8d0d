"""Training: recipes, the loop, resumable checkpoints."""
