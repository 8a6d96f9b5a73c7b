"""How weights come to be: recipe, loop, optimizer, checkpoints."""
