"""Training: the loop, the recipe, optimizers, checkpoints."""
