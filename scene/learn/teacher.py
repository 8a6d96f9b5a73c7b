"""The model that training starts from, its teacher: the one named, or Scene's own where photos are few.

Its network keeps all layers but the last, which is solved for the new classes (head.py). Training then starts
from the result: head first, then all layers, since gradients of a random head would spoil good features. Very
few photos train the head alone (`recipe.is_head_enough`).

Source: Kumar et al., Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution (2022).
Next: distill.py
"""

from __future__ import annotations

import os
from typing import NamedTuple

from scene.answer import modelfile
from scene.answer.classifier import PRETRAINED
from scene.errors import UserError, printable
from scene.learn.recipe import START_PHOTOS, any_size
from scene.models import MODES

OWN = "pretrained"          # what --start-from takes for Scene's own model


class Teacher(NamedTuple):
    """A trained network to start from."""

    path: str
    network: object         # on NumPy arrays
    started_from: dict      # the entry of this name in the new model's card: the model's SHA-256, its terms

    @property
    def name(self) -> str:
        """The first 12 digits of the model's SHA-256."""
        return self.started_from["sha256"][:12]


def choose(options, photos: float) -> Teacher | None:
    """The Teacher for the options and the number of photos per class, or None. Says where training starts.

    Sets options.image_size if it is not given. Raises UserError, ModelFileError, or OSError.
    """
    asked = options.start_from or (OWN if options.head_only else None)
    if asked and options.widths:
        raise UserError("A network that starts from a trained one has its widths: leave --widths out.")
    teacher = None
    if asked or starts_by_itself(options, photos):
        try:
            teacher = open_teacher(asked or OWN, options.mode)
        except modelfile.ModelFileError as error:
            if asked:
                raise
            print(f"Note: {error} So training starts from nothing.", flush=True)        # models.py is changed
        if teacher and not asked and options.image_size not in (None, teacher.network.image_size):
            teacher = None
    source = teacher.network if teacher else MODES[options.mode]
    options.image_size = options.image_size or source.image_size
    if teacher:
        print(describe(teacher, None if asked else photos), flush=True)
    return teacher


def starts_by_itself(options, photos):
    """Whether training starts from Scene's own model unless somebody asks for another start.

    Only where the features are means over all pixels: the curve in tests/bench/README.md was measured there.
    """
    mode = MODES[options.mode]
    return (mode.pretrained and any_size(mode.network(2)) and 0 < photos <= START_PHOTOS
            and options.loss != "mse" and not options.widths and not options.from_scratch)


def open_teacher(path, mode):
    """The Teacher in a model file, or Scene's own for OWN. Raises UserError unless it is of this mode."""
    if path == OWN:
        if mode not in PRETRAINED:
            raise UserError(f"Scene has no pretrained model of mode {mode}: name a model file to start from.")
        path = PRETRAINED[mode]
    with open(path, "rb") as file:
        data = file.read()
    with modelfile.named(path):
        network, card = modelfile.load(data)
    modelfile.check_mode(path, card["mode"], mode)
    return Teacher(path, network, modelfile.describe_source(data, card))


def is_own(path):
    """Whether this is the file of one of Scene's own models."""
    return os.path.realpath(path) in map(os.path.realpath, PRETRAINED.values())


def its_terms(source):
    """A sentence with a model's terms of use, or nothing. source: from `modelfile.describe_source`."""
    return f" Its terms: {source['terms'].rstrip('.')}." if source["terms"] else ""


def describe(teacher, photos=None):
    """One line: where training starts, why if nobody asked for it, and how to start elsewhere.

    photos: of each class, on average.
    """
    model = "Scene's own model" if is_own(teacher.path) else printable(teacher.path)
    why = f", the default with at most {START_PHOTOS} photos per class (here {photos:.0f})" if photos else ""
    terms = its_terms(teacher.started_from)
    return (f"Training starts from {model} ({teacher.name}){why}.{terms} Other starts: --from-scratch, or "
            "--start-from PATH.")
