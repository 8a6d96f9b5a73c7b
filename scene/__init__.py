"""Scene sorts photographs into scenes, with neural networks whose every layer is written out by hand.

    from scene import Classifier

    Classifier.open("model_CNN").classify(open("photo.jpg", "rb").read())       # {"ocean": 0.93, …}

scene/README.md has the reading order.
"""

__all__ = ["Classifier"]


def __getattr__(name):
    """Imports Classifier on first use, since it loads NumPy and Pillow, which `--help` does not need."""
    if name == "Classifier":
        import scene.processes  # noqa: F401  before NumPy: it sets the number of BLAS threads
        from scene.answer.classifier import Classifier

        return Classifier
    raise AttributeError(f"module 'scene' has no attribute {name!r}")
