"""Cross-validation: every photo is answered by a network that was not trained on it.

The photos are divided into K folds. For each fold, a network is trained on all the others, and asked about
this one. So a few hundred photos are all tested, and still all trained on. Copies and bursts share a fold.

Source: Stone, Cross-Validatory Choice and Assessment of Statistical Predictions (1974).
Next: output.py
"""

import numpy as np

from scene.errors import UserError, printable
from scene.learn.calibrate import Measured
from scene.photos import split


def make_folds(photos, folds, seed):
    """The fold of each photo: (N,) int64. Raises UserError if a class is in fewer than two."""
    counts = np.bincount(photos.labels, minlength=len(photos.classes))
    targets = np.tile(counts / folds, (folds, 1))
    groups = np.arange(len(photos.labels)) if photos.groups is None else photos.groups
    names = [f"{photos.classes[k]}/{i}" for i, k in enumerate(photos.labels)]
    fold = split.divide(photos.labels, groups, names, targets, seed)
    for name, mine in zip(photos.classes, split.members(photos.labels, len(counts)), strict=True):
        if len(np.unique(fold[mine])) < 2:
            raise UserError(f"Class {printable(name)} cannot be divided into folds: its photos ({len(mine)}) "
                            "belong together, as copies or a burst. Add others, or leave out --folds.")
    return fold


def cross_validate(photos, folds, seed, ask, checkpoint):
    """Trains a network for each fold, and returns all photos as Measured, in their order.

    ask(asked), bool (N,), trains on the other photos and returns the Measured of those asked about. The
    checkpoint gets the answers of every finished fold. Whoever resumes repeats the fold that was interrupted,
    from its start.
    """
    fold = make_folds(photos, folds, seed)
    place, arrays = checkpoint.load() or ({"folds": 0}, {})
    arrays = {"scores": np.zeros((len(fold), len(photos.classes)), np.float32),
              "logs": np.zeros((len(fold), 2), np.float32)} | arrays
    if place["folds"]:
        print(f"Resumed after {place['folds']} of {folds} folds.", flush=True)
    for k in range(place["folds"], folds):
        asked = fold == k
        print(f"Fold {k + 1} of {folds}: {sum(~asked)} photos to train on, {sum(asked)} to test on.",
              flush=True)
        found = ask(asked)
        for name, array in arrays.items():
            arrays[name] = array.copy()
            arrays[name][asked] = getattr(found, name)
        checkpoint.write(checkpoint.encode({"folds": k + 1}, arrays))
    return Measured(arrays["scores"], photos.labels, arrays["logs"])
