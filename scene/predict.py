"""From a photo to its scene: the only place that predicts.

    python -m scene.predict PHOTO... [--model PATH]

The test at the end of training, this command and the endpoint ask the same Classifier: the accuracy that training prints is the
accuracy of what is deployed. Nothing here imports torch.

Next: endpoint.py
"""

import argparse
import json
import os
import sys

import numpy as np

from scene import command, modelfile, photo
from scene.command import printable
from scene.cores import in_turn
from scene.models import MODES
from scene.nn.arrays import adopt, as_numpy, flip, library
from scene.nn.loss import softmax

PRETRAINED = {mode: os.path.join(os.path.dirname(__file__), "pretrained", f"model_{mode}") for mode in MODES}
BATCH_PIXELS = 1 << 17      # pixels predicted at once, mirror images aside: 20 photos of 80x80, a third faster than 81


class Classifier:
    """A network with its card. Works on NumPy arrays or torch tensors, whichever holds the network's weights."""

    def __init__(self, network, card):
        self.network, self.card, self.classes = network, card, card["classes"]
        network.freeze()

    @classmethod
    def open(cls, path):
        """The classifier in a model file, on NumPy. Raises ModelFileError or OSError."""
        with open(path, "rb") as file:
            data = file.read()
        try:
            return cls(*modelfile.load(data))
        except modelfile.ModelFileError as error:
            raise modelfile.ModelFileError(f"{printable(path)} is not a usable model: {error}.") from error

    def probabilities(self, pixels, run=in_turn):
        """The probability of each class for decoded photos: uint8 (N, H, W, 3) -> float32 (N, K), both NumPy.

        The scores of the photo and of its mirror image are averaged: a scene is the same seen in a mirror.
        run: `in_turn` or, for many photos, `on_all_cores`.
        """
        step = max(1, BATCH_PIXELS // self.network.image_size ** 2)
        rows = run(lambda i: self.answer(pixels[i * step:(i + 1) * step]), -(-len(pixels) // step))
        return np.concatenate(list(rows))

    def answer(self, pixels):
        """The probabilities for a few photos, all at once."""
        x = adopt(pixels, self.network.params)
        if self.card["mirror"]:
            z = self.network.forward(library(x).concatenate([x, flip(x, 2)]))           # (2N, H, W, 3) -> (2N, K)
            z = (z[:len(x)] + z[len(x):]) / 2
        else:
            z = self.network.forward(x)
        return as_numpy(softmax(z))

    def classify(self, data, limits=photo.LOCAL):
        """The bytes of a photo -> {class: probability}, the likeliest first. Raises PhotoError."""
        pixels = photo.decode(data, self.network.image_size, limits)
        p = self.probabilities(pixels[None])[0]         # (H, W, 3) -> (1, H, W, 3) -> (1, K) -> (K,)
        return {self.classes[k]: float(p[k]) for k in np.argsort(-p, kind="stable")}


def run(options):
    """Prints the scene of each photo; returns the exit code."""
    classifier = Classifier.open(options.model)
    failed = 0
    for path in options.photos:
        try:
            answer = classifier.classify(photo.read(path))
        except photo.PhotoError as error:
            print(f"{printable(path)}: {error}.", file=sys.stderr)
            if options.json:
                print(json.dumps({"photo": path, "error": str(error)}))
            failed = 2
            continue
        scene = next(iter(answer))
        if options.json:
            print(json.dumps({"photo": path, "scene": scene, "probabilities": answer}))
        else:
            print(f"{printable(path)}: {scene}")
            for name, p in answer.items():
                print(f"  {p:7.2%}  {name}")
    return failed


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.predict", description="Say which scene each photo shows, and how probable each class is.",
        epilog="exit codes: 0 done, 1 something unforeseen, 2 a mistake in the command, in the model or in a photo")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="a JPEG, PNG or WebP file")
    parser.add_argument("--model", metavar="PATH", default=PRETRAINED["CNN"],
                        help="a model file that scene.main has written (default: the pre-trained CNN that comes with Scene)")
    parser.add_argument("--json", action="store_true", help="a JSON object for each photo, a line each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(command.run(run, parse(None)))
