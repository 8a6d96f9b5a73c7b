"""The checkpoint: all that an interrupted training needs to go on as if nothing had happened.

It holds parameters, running statistics, the optimizer's memory and the state of the random numbers, the place in the training, and a
description of the run: with other photos or settings, going on would give weights that no uninterrupted training gives. In front stand the
32 bytes of a SHA-256 over the rest, which is safetensors.

Next: train.py
"""

import hashlib
import json
import os
import time
from importlib.metadata import version

import numpy as np
import safetensors.numpy

from scene import modelfile
from scene.command import Stopped, UserError, printable
from scene.nn.arrays import adopt, as_numpy

VERSION = "1.4"     # of Scene. It stands here and not in __init__.py, which a folder called scene where the command runs would hide
PAUSE = 30          # seconds between two saves: what a power cut may cost


class CheckpointError(UserError):
    """A checkpoint that cannot be written, or not be used: says why, and what to do."""


class Checkpoint:
    """The checkpoint of one training run: where it lies, and `run`, {what: value}: all that the weights depend on."""

    def __init__(self, path, run):
        self.path, self.run, self.saved = path, run, -PAUSE

    def due(self):
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= PAUSE

    def encode(self, place, arrays):
        """The bytes of a checkpoint: place is what JSON can hold, arrays are {name: array} of either library."""
        about = json.dumps({"run": self.run, "place": place}).encode()
        data = safetensors.numpy.save({"about": np.frombuffer(about, np.uint8)} | {name: as_numpy(a) for name, a in arrays.items()})
        return hashlib.sha256(data).digest() + data

    def write(self, data):
        """Writes what `encode` returned; the last checkpoint stays until this one is whole. Raises CheckpointError."""
        try:
            modelfile.write(self.path, data)
        except OSError as error:
            raise CheckpointError(f"{printable(self.path)} could not be written: {error.strerror}. "
                                  "When that is mended, the same command with --resume goes on from the last one that was.") from error
        self.saved = time.monotonic()

    def load(self):
        """The (place, arrays) that were written last, None if nothing was. Raises CheckpointError or OSError."""
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise CheckpointError(f"{printable(self.path)} is damaged: delete it and begin anew.")
        arrays = safetensors.numpy.load(data[32:])
        about = json.loads(arrays.pop("about").tobytes())
        if differences := compare(about["run"], self.run):
            raise CheckpointError(f"{printable(self.path)} is of another training: {'; '.join(differences)}. "
                                  "Give what it was begun with, or delete it to begin anew.")
        return about["place"], arrays

    def restore(self, network):
        """Gives a network the parameters and statistics that were written last; returns whether any were."""
        found = self.load()
        if found:
            for vector, name in (network.params, "parameters"), (network.state, "statistics"):
                vector[...] = adopt(found[1][name], vector)
        return bool(found)

    def remove(self):
        """Deletes it, if there is one. Raises OSError."""
        if os.path.exists(self.path):
            os.unlink(self.path)


class Keeper:
    """Keeps a training in its checkpoint, and ends it when a signal asks for that. Without a checkpoint, None, it only does the latter.

    A save takes two calls, before and after a step. What `take` notes is written by `keep` only if the step has not diverged: so the
    weights in the file are good ones. Whoever goes on does this step again.
    """

    def __init__(self, checkpoint, signals, progress, generator, memory):
        self.checkpoint, self.signals, self.progress, self.generator, self.memory = checkpoint, signals, progress, generator, memory
        self.stopped_by = None

    def start_epoch(self):
        self.memory["random"] = self.generator.get_state()      # the epoch's order is drawn from it, also the second time

    def resume(self):
        """Takes over what the checkpoint holds, if there is one; returns the number of steps that are done."""
        found = self.checkpoint and self.checkpoint.load()
        if not found:
            return 0
        self.start_epoch()
        place, arrays = found
        for name, array in self.memory.items():
            array[...] = adopt(arrays[name], array)
        self.generator.set_state(self.memory["random"])
        self.progress.resume(place)
        return place["done"]

    def take(self, done):
        """The training as it is now, after so many steps, for `keep`; None if it is not time for that."""
        self.stopped_by = self.signals[0] if self.signals else None
        if self.checkpoint and (self.stopped_by or self.checkpoint.due()):
            return self.checkpoint.encode(self.progress.place() | {"done": done}, self.memory)
        return None

    def keep(self, taken):
        """Writes what `take` returned. Raises CheckpointError, and Stopped if a signal had come before that."""
        if taken:
            self.checkpoint.write(taken)
        if self.stopped_by:
            raise Stopped(self.stopped_by, f"Stopped in epoch {self.progress.epoch}. The same command with --resume goes on from there."
                          if taken else "Stopped.")


def compare(then, now):
    """What is different now, in words, a string for each thing."""
    return [f"{printable(what)} was {then.get(what, 'none')} and is {now.get(what, 'none')}"
            for what in then | now if then.get(what) != now.get(what)]


def describe(network, photos, settings, teacher=None):
    """All that the weights of a training depend on, {what: value}. Photos are told apart by the SHA-256 of their pixels."""
    run = {"Scene": VERSION, "torch": version("torch"), "mode": network.mode}
    run |= {name.replace("_", " "): value for name, value in (network.architecture | vars(settings)).items()}
    run["start from"] = fingerprint(teacher.params, teacher.state) if teacher else "none"
    for k, name in enumerate(photos.classes):
        pixels = photos.pixels[photos.labels == k]
        run[f"class {name}"] = f"{len(pixels)} photos ({fingerprint(pixels)})"
    return run


def fingerprint(*arrays):
    """The first 12 hex digits of the SHA-256 of the arrays' numbers."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(as_numpy(array))
    return sha.hexdigest()[:12]
