"""Reports for tests: of an untrained network, on photos whose names try to escape from the page.

    python -m tests.reports             # after a change of the report: writes golden/ anew. Read what differs

`golden/` has the outlines of two reports as text: their elements, words and drawings, and of each picture
its size and mean colour.
"""

import base64
import io
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image

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


# Outlines


class Outline(HTMLParser):
    """The elements and words of a page as indented lines, without its style and its script."""

    VOID = {"meta", "img", "br"}

    def __init__(self, content):
        super().__init__()
        self.depth = 0
        self.lines = []
        self.opened = False         # whether the last line is an element without words so far
        self.feed(re.sub(r"(<style>).*?(</style>)|(<script>).*?(</script>)", r"\1\2\3\4", content,
                         flags=re.DOTALL))
        self.close()

    def handle_starttag(self, name, attributes):
        shown = [f"{key}={describe(value or '')}" for key, value in attributes]
        self.lines.append(" " * self.depth + " ".join([f"<{name}>", *shown]))
        self.opened = name not in self.VOID
        self.depth += self.opened

    def handle_endtag(self, name):
        self.depth -= name not in self.VOID
        self.opened = False

    def handle_data(self, data):
        for line in data.splitlines():
            if self.opened:
                self.lines[-1] += f" | {line}"
            elif line.strip():
                self.lines.append(" " * self.depth + f"| {line}")
            self.opened = False


def describe(value):
    """The value of an attribute: of a picture its size and mean colour, of a policy without its hashes."""
    if not value.startswith("data:"):
        return re.sub("sha256-[^']*", "sha256-…", value)
    image = Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))).convert("RGB")
    colour = ",".join(f"{channel:.0f}" for channel in np.asarray(image).mean((0, 1)))
    return f"picture {image.width}x{image.height} {colour}"


def outline(content):
    """The outline of a report as text."""
    return re.sub("[0-9a-f]{64}", "SHA-256", "\n".join([*Outline(content).lines, ""]))


def believed(count, classes):
    """Probabilities for `photos` by a network that errs on every fifth: (N, K)."""
    n = np.arange(count)
    answers = (n + (n % 5 == 2) * (1 + n % 3)) % classes
    sure = (0.35 + 0.6 * (n * 7 % count) / count)[:, None]
    second = (answers + 1 + n % 2) % classes
    rest = 0.7 * np.eye(classes)[second] + 0.3 / classes
    return (sure * np.eye(classes)[answers] + (1 - sure) * rest).astype(np.float32)


def examples():
    """{name: the outline of a report}: one with everything, and one of a test without training."""
    classes = ["coast", "kitchen", "<b>", "ski slope"]
    twice = {"verdict": "warning", "where": "t/coast/1.jpg and t/kitchen/1.jpg",
             "what": "the same photo in two classes: keep it in one class only"}
    kinds = {
        "everything": {"classes": classes, "count": 21, "train": 30, "leaks": 1, "findings": [twice],
                       "probabilities": believed(21, 4), "out_of_fold": believed(30, 4)},
        "tested": {"classes": classes[:2], "count": 9, "train": 0, "mode": "FCNN",
                   "probabilities": believed(9, 2)},
    }
    with tempfile.TemporaryDirectory() as folder:
        return {name: outline(make(Path(folder, name), **kind)[0]) for name, kind in kinds.items()}


if __name__ == "__main__":
    for name, text in examples().items():
        Path(__file__).parent.joinpath("golden", f"report_{name}.txt").write_text(text, encoding="utf-8")
