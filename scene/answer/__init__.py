"""From a photo to its scene. Nothing here imports scene.learn, or torch."""
