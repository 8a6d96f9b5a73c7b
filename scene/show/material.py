"""Everything that a report is made of.

Next: sections.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from scene.answer import labels
from scene.answer.metrics import Confusion
from scene.show import matrix
from scene.show.pictures import Pictures

TWO_CLASSES = " in two classes"             # in the words of a finding
COMMON = 20             # confusions that are listed


class Answers(NamedTuple):
    """Photos and what networks that were not trained on them answered."""

    labels: np.ndarray              # (N,)
    probabilities: np.ndarray       # (N, K)
    paths: Sequence[str]
    pictures: Pictures


class Neighbours(NamedTuple):
    """Training photos, to compare mistakes with."""

    features: np.ndarray            # (N, F)
    labels: np.ndarray              # (N,)
    paths: Sequence[str]
    pictures: Pictures
    of: int                         # how many training photos there are: these N may be some of them


class Suspect(NamedTuple):
    """A photo that may be in the wrong folder."""

    photo: int
    seems: int                      # the class that it seems to belong to
    among: Answers


@dataclass
class Material:
    """The photos of TEST, the answers to them, and what is known about the run."""

    metrics: dict                   # the content of metrics_<MODE>.json
    classes: list[str]
    test: Answers
    features: np.ndarray            # (N, F) of the photos of TEST
    train: Neighbours | None = None
    folds: Answers | None = None                # of the training photos, by networks that did not see them
    shown: list[int] = field(init=False)                # the classes in the confusion matrix, in its order
    cells: set[tuple[int, int]] = field(init=False)     # those whose photos the report has

    def __post_init__(self):
        self.labels, self.probabilities, self.paths, self.pictures = self.test
        self.answers = self.probabilities.argmax(1)
        self.right = self.answers == self.labels
        self.sure = self.probabilities.max(1)
        self.confusion = Confusion(self.labels, self.answers, len(self.classes))
        self.confusions = self.confusion.mistakes()
        self.shown = matrix.chosen(self.confusion)
        pairs = zip(*np.nonzero(self.confusion.among(self.shown)), strict=True)
        self.cells = {(i, j) for _, i, j in self.confusions[:COMMON]} | {
            (self.shown[a], self.shown[b]) for a, b in pairs}

    def link(self, i: int) -> str:
        """The address on the page of the photos that were answered as photo i was."""
        cell = int(self.labels[i]), int(self.answers[i])
        return f"#{matrix.key(*cell)}" if cell in self.cells else "#confusions"

    @cached_property
    def mistakes(self) -> list[int]:
        """The photos that were answered wrongly, the surest first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.sure[wrong], kind="stable")].tolist()

    @property
    def duplicates(self) -> list[str]:
        """Where the same photo is in two classes, or nearly the same: "train/a/1.jpg and train/b/1.jpg"."""
        return [found["where"] for found in self.metrics.get("findings", []) if TWO_CLASSES in found["what"]]

    @cached_property
    def suspects(self) -> list[Suspect]:
        """Probable label errors, the surest first: with folds those of TRAIN, and then those of TEST.

        They stay apart, since a wrong label of TRAIN teaches the network something wrong, and one of TEST
        makes its accuracy wrong; and the two are believed by different networks.
        """
        return [Suspect(i, k, among) for among in (self.folds, self.test) if among
                for _, i, k in labels.suspects(among.labels, among.probabilities)]
