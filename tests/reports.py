"""Reports for tests: of an untrained network, on photos whose names try to escape from the page."""

import numpy as np
import torch

from scene.answer import metrics, modelfile
from scene.answer.classifier import Classifier
from scene.models import MODES
from scene.photos.folder import Photos
from scene.show import report

NASTY = ['"&<b>', "<script>alert(1)<!--", "ocean", "x' onload='alert(1)"]
FILES = ["<script>alert(1)<!--.jpg",
         '"><img src=x onerror=alert(1)>.jpg', "a&amp;b\n\xff.png", "ocean_001.jpg"]


def classifier(mode, classes, size=16):
    network = MODES[mode].network(len(classes), size).start(torch.Generator().manual_seed(1))
    return Classifier.load(modelfile.encode(network, modelfile.make_card(network, mode, classes)))


def photos(classes, count, size=16, folder="/nowhere", seed=0):
    """Photos of noise, each of its own strength, with the lightness of its class.

    They are on no disk: a report shows the pixels in memory if it cannot read the files.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(classes)
    strength, light = 10 + 70 * np.arange(count) / count, 170 * labels // max(1, len(classes) - 1)
    noise = random.random((count, size, size, 3)) * strength[:, None, None, None]
    pixels = (noise + light[:, None, None, None]).astype(np.uint8)
    paths = [f"{folder}/{classes[k]}/{i}{FILES[i % len(FILES)]}" for i, k in enumerate(labels)]
    return Photos(pixels, labels, paths, classes)


def make(path, classes=NASTY, count=60, mode="CNN", train=40, probabilities=None, **more):
    """Writes a report and returns its text and the metrics."""
    model = classifier(mode, classes)
    test = photos(classes, count)
    features = model.features(test.pixels)
    p = model.probabilities_of(features) if probabilities is None else probabilities
    history = [{"epoch": i, "loss": 2 / i, "accuracy": 1 - 0.7 / i, "held_out_loss": 2.2 / i,
                "held_out_accuracy": 1 - 0.8 / i} for i in range(1, 9)]
    entries = {"mode": mode, **metrics.evaluate(test.labels, p, classes), "leaks": more.pop("leaks", 0),
               "model": {"path": "model_CNN", "sha256": model.sha256}, "history": history,
               "settings": {"seed": 0, "image_size": 16}, "versions": {"scene": "2.0"},
               "findings": more.pop("findings", []),
               "command": "cd '/tmp/<b>' && python -m scene.main train test CNN --seed 0"}
    few = photos(classes, train, seed=1) if train else None
    report.write(path, entries, model, features, test, p, few, **more)
    return path.read_text(encoding="utf-8"), entries
