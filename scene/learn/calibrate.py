"""Holds photos out of the training, and fits the calibration on them (answer/calibration.py).

Photos that the network was trained on would not do: it is surer of them, and they look less strange to it.

Next: run.py
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scene import processes
from scene.answer import calibration, strangeness
from scene.nn.loss import softmax
from scene.photos.pixels import Rows
from scene.photos.split import members

ENOUGH = 1000               # training photos: of fewer, none can be spared
SHARE = 0.05
LEAST, MOST = 100, 500      # photos held out
REFERENCE = 5000            # trained photos, at most, that the strangeness of others is measured from


class Measured(NamedTuple):
    """What a calibration is fitted on: photos that the network was not trained on."""

    scores: np.ndarray      # (N, K)
    labels: np.ndarray      # (N,)
    logs: np.ndarray        # (N, 2), strangeness.distances


def hold_out(photos, seed):
    """Divides photos.folder.Photos into those to train on and those held out, or None if none can be spared.

    A twentieth of every class is held out, drawn by the seed. Of photos that belong together, copies and
    bursts, none is held out, since the network would know it. No pixels are copied.
    """
    if len(photos.labels) < ENOUGH:
        return photos, None
    held = draw(photos.labels, seed, photos.groups)
    if sum(held) < LEAST / 2:                   # most classes have a single photo, or most photos have copies
        return photos, None
    return subset(photos, ~held), subset(photos, held)


def subset(photos, chosen):
    """The chosen photos, without a copy of their pixels.   chosen: a mask (N,)."""
    paths = [path for path, keep in zip(photos.paths, chosen, strict=True) if keep]
    groups, hashes, soft = (each if each is None else each[chosen]
                            for each in (photos.groups, photos.hashes, photos.soft))
    return replace(photos, pixels=Rows(photos.pixels, chosen), labels=photos.labels[chosen], paths=paths,
                   groups=groups, hashes=hashes, soft=soft)


def draw(labels, seed, groups=None):
    """Which photos are held out: a mask (N,). As many of each class as its share, and never all of it.

    groups: a number for each photo, the same for photos that belong together: none of these is held out.
    """
    random = np.random.default_rng(seed)
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    alone = np.bincount(groups)[groups] == 1
    counts = np.bincount(labels)
    wanted = np.clip(round(SHARE * len(labels)), LEAST, MOST) * counts / len(labels)
    numbers = np.floor(wanted).astype(int)
    missing = round(wanted.sum()) - numbers.sum()
    numbers[np.argsort(numbers - wanted, kind="stable")[:missing]] += 1         # the largest remainders
    held = np.zeros(len(labels), bool)
    for mine, number in zip(members(labels, len(counts)), np.minimum(numbers, counts - 1), strict=True):
        held[random.permutation(mine[alone[mine]])[:max(0, number)]] = True
    return held


def reference(classifier, photos):
    """The `strangeness.fit` of photos that the classifier was trained on, of REFERENCE at most."""
    every = slice(None, None, -(-len(photos.labels) // REFERENCE))          # a view of all classes
    pixels = Rows(photos.pixels, every)
    features = classifier.features(pixels, processes.parallel_map)
    textures = classifier.textures(pixels, processes.parallel_map)
    return strangeness.fit(features, textures, photos.labels[every], len(photos.classes))


def measure(classifier, fitted, photos):
    """The Measured of photos that the classifier was not trained on.   fitted: from `reference`."""
    features = classifier.features(photos.pixels, processes.parallel_map)
    textures = classifier.textures(photos.pixels, processes.parallel_map)
    return Measured(classifier.scores(features), photos.labels,
                    strangeness.distances(features, textures, fitted))


def calibrate(classifier, trained, held, error):
    """The calibration of a classifier, {name: array}, from photos it was trained on and those held out.

    held: Photos, or what a cross-validation has Measured.
    """
    fitted = reference(classifier, trained)
    measured = held if isinstance(held, Measured) else measure(classifier, fitted, held)
    return fitted | calibration.fit(*measured, error)


def evaluate(measured, found):
    """The `calibration.evaluate` of what a calibration was fitted on: a little too good."""
    p = softmax(measured.scores / found["temperature"])
    return calibration.evaluate(measured.labels, p, calibration.reasons(p, measured.logs, found), found)
