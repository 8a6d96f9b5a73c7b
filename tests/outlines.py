"""Outlines of what people see: reports, and what the page shows of a training step.

    python -m tests.outlines            # after a change of these: writes golden/ anew. Read what differs

`golden/` has them as text: elements, words, drawings and numbers, and of each picture its size and mean
colour. So no word, place or number changes unnoticed. A machine may round differently what stands after a ~
(places in drawings, by 0.06; results of a network, by a thousandth) or after a ≈ (colours, points of a path,
by 1). Everything else must be the same.
"""

import base64
import functools
import io
import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.models import CNN, FCNN
from scene.show import inside
from tests import reports

GOLDEN = Path(__file__).parent / "golden"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
ROUNDED = re.compile(f"([~≈])({NUMBER.pattern})")
PLACES = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "viewbox", "transform",
          "fill-opacity"}           # attributes of drawings


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
        shown = [f"{key}={describe(value or '', '≈' if key == 'd' else '~' if key in PLACES else '')}"
                 for key, value in attributes]
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


def describe(value, sign=""):
    """The value of an attribute: of a picture its size and mean colour, of a policy without its hashes.

    sign: what stands before numbers that may be rounded differently.
    """
    if not value.startswith("data:"):
        return NUMBER.sub(rf"{sign}\g<0>", re.sub("sha256-[^']*", "sha256-…", value))
    image = Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))).convert("RGB")
    colour = ",".join(f"≈{channel:.0f}" for channel in np.asarray(image).mean((0, 1)))
    return f"picture {image.width}x{image.height} {colour}"


def outline(content):
    """The outline of a report as text."""
    return re.sub("[0-9a-f]{64}", "SHA-256", "\n".join([*Outline(content).lines, ""]))


def believed(count, classes):
    """Probabilities of `count` photos of `reports.photos`, every fifth of them wrong: (N, K)."""
    n = np.arange(count)
    answers = (n + (n % 5 == 2) * (1 + n % (classes - 1))) % classes
    sure = (0.35 + 0.6 * (n * 7 % count) / count)[:, None]
    second = (answers + 1 + n % 2) % classes
    rest = 0.7 * np.eye(classes)[second] + 0.3 / classes
    return (sure * np.eye(classes)[answers] + (1 - sure) * rest).astype(np.float32)


def report_outlines():
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
        return {f"report_{name}": outline(reports.make(Path(folder, name), **kind)[0])
                for name, kind in kinds.items()}


def inside_outlines():
    """{name: what the page shows of a training step on a photo} of a narrow network of each mode."""
    narrow = {"FCNN": FCNN(3, 16, (6, 5)), "CNN": CNN(3, 16, (4, 5, 6))}
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    found = {}
    for mode, network in narrow.items():
        network.start(torch.Generator().manual_seed(0))
        card = modelfile.make_card(network, mode, ["grass", "ocean", "road"])
        step = abridged(inside.train(Classifier(network, card), pixels, 1))
        found[f"inside_{mode}"] = "\n".join([*lines(step), ""])
    return found


def lines(value, indent=""):
    """Objects and lists as indented lines. One that holds only words and numbers is one line."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        if any(isinstance(one, (dict, list)) for one in inner):
            yield f"{indent}{key}"
            yield from lines(each, indent + " ")
        else:
            yield f"{indent}{key} {json.dumps(each, ensure_ascii=False)}"


def abridged(value):
    """What a page is told, without what is read from the layers, and with `describe` in place of pictures."""
    if isinstance(value, dict):
        return {key: abridged(each) for key, each in value.items() if key not in ("code", "formula")}
    if isinstance(value, list):
        return [abridged(each) for each in value]
    if isinstance(value, float):
        return f"~{value:.5g}"
    return describe(value) if isinstance(value, str) else value


def compare(text, before):
    """Fails unless an outline is as before, but for rounding."""
    text, before = text.splitlines(), before.splitlines()
    assert [ROUNDED.sub("~", line) for line in text] == [ROUNDED.sub("~", line) for line in before], \
        "after a change, run python -m tests.outlines, and read what differs"
    for new, old in zip(text, before, strict=True):
        for (_, one), (sign, other) in zip(ROUNDED.findall(new), ROUNDED.findall(old), strict=True):
            close = 1.01 if sign == "≈" else 0.06 if old.lstrip().startswith("<") else 1e-6
            assert float(one) == pytest.approx(float(other), rel=1e-3, abs=close), old


@functools.cache
def outlines():
    """{name: outline} of everything in golden/."""
    return {**report_outlines(), **inside_outlines()}


if __name__ == "__main__":
    for name, text in outlines().items():
        (GOLDEN / f"{name}.txt").write_text(text, encoding="utf-8")
