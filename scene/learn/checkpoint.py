"""The checkpoint: everything needed to resume an interrupted run as if nothing had happened.

It holds the parameters, the running statistics, the states of the optimizer and the random generator, the
position in the run, and a description of the run: resuming with other photos or settings would give weights
that no uninterrupted run gives. The first 32 bytes are the SHA-256 of the rest, which is safetensors.

Next: progress.py
"""

import hashlib
import json
import time
from importlib.metadata import version

import numpy as np
import safetensors.numpy

from scene import files
from scene.errors import UserError, printable
from scene.nn.arrays import adopt, as_numpy
from scene.photos.split import members
from scene.signals import Stopped
from scene.version import VERSION

MOST_DIFFERENCES = 5        # named in a message
PAUSE = 30          # seconds between two saves: the most that a power cut can cost


class CheckpointError(UserError):
    """A checkpoint that cannot be written or used. The message says why, and what to do."""


class Checkpoint:
    """The checkpoint file of a training run.   run: everything that its weights depend on, {name: value}."""

    def __init__(self, path, run):
        self.path = path
        self.run = run
        self.saved = -PAUSE

    def due(self):
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= PAUSE

    def encode(self, place, arrays):
        """The bytes of a checkpoint.   place: anything JSON can hold, arrays: {name: array}."""
        about = json.dumps({"run": self.run, "place": place}).encode()
        arrays = {name: as_numpy(array) for name, array in arrays.items()}
        data = safetensors.numpy.save({"about": np.frombuffer(about, np.uint8)} | arrays)
        return hashlib.sha256(data).digest() + data

    def write(self, data):
        """Writes the result of `encode` atomically. Raises CheckpointError."""
        try:
            files.write(self.path, data, overwrite=False)
        except OSError as error:
            message = (f"{printable(self.path)} could not be written: {error.strerror}. Once that is fixed, "
                       "the same command with --resume continues from the last checkpoint.")
            raise CheckpointError(message) from error
        self.saved = time.monotonic()

    def load(self):
        """The (place, arrays) written last, or None if there are none. Raises CheckpointError or OSError."""
        found = read(self.path)
        if found is None:
            return None
        about, arrays = found
        if differences := compare(about["run"], self.run):
            raise CheckpointError(f"{printable(self.path)} belongs to another run: {'; '.join(differences)}. "
                                  "Use the same photos and options as before, or choose another --output to "
                                  "start a new run.")
        return about["place"], arrays

    def restore(self, network):
        """Loads the last parameters and statistics into a network. Returns whether there were any."""
        found = self.load()
        if found:
            _, arrays = found
            network.params[...] = adopt(arrays["parameters"], network.params)
            network.state[...] = adopt(arrays["statistics"], network.state)
        return bool(found)

    def remove(self):
        """Deletes the file, if there is one. Raises OSError."""
        files.remove(self.path)


def read(path):
    """What a checkpoint file holds: ({"run": …, "place": …}, arrays), or None if it does not exist.

    Raises CheckpointError or OSError.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise CheckpointError(f"{printable(path)} is damaged: delete it and start over.")
    arrays = safetensors.numpy.load(data[32:])
    return json.loads(arrays.pop("about").tobytes()), arrays


class Keeper:
    """Saves a training run to its checkpoint, if it has one, and stops it after a signal.

    `take` snapshots the state before a step, and `keep` writes it once the step has not diverged, so a
    checkpoint never holds diverged weights. Resuming repeats that step.
    """

    def __init__(self, checkpoint, signals, progress, generator, memory):
        self.checkpoint = checkpoint
        self.signals = signals
        self.progress = progress
        self.generator = generator
        self.memory = memory
        self.stopped_by = None

    def start_epoch(self):
        self.memory["random"] = self.generator.get_state()      # a resumed epoch draws the same order from it

    def resume(self):
        """Restores the checkpoint, if there is one, and returns the number of steps done."""
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

    def finish(self, done):
        """Saves the weights after the last step, so that whoever resumes has nothing left to train."""
        if self.checkpoint:
            self.checkpoint.write(self.encode(done))

    def encode(self, done):
        """The bytes of the run's checkpoint after `done` steps."""
        return self.checkpoint.encode(self.progress.place() | {"done": done}, self.memory)

    def take(self, done):
        """A snapshot of the run after `done` steps, for `keep`, or None if it is not time to save."""
        self.stopped_by = self.signals[0] if self.signals else None
        if self.checkpoint and (self.stopped_by or self.checkpoint.due()):
            return self.encode(done)
        return None

    def keep(self, snapshot):
        """Writes the result of `take`. Raises CheckpointError, and Stopped if a signal came before `take`."""
        if snapshot:
            self.checkpoint.write(snapshot)
        if self.stopped_by:
            epoch = self.progress.epoch
            message = f"Stopped in epoch {epoch}. The same command with --resume continues from there."
            raise Stopped(self.stopped_by, message if snapshot else Stopped.MESSAGE)


def compare(then, now):
    """The differences between two descriptions of runs, one string for each.

    At another image size every photo has other pixels. Then classes are compared by their number of photos.
    """
    resized = then.get("image size") != now.get("image size")

    def value(run, name):
        found = run.get(name, "none")
        return found.partition(" (")[0] if resized and name.startswith("class ") else found

    words = [f"{printable(name)} was {value(then, name)} and is {value(now, name)}"
             for name in then | now if value(then, name) != value(now, name)]
    more = len(words) - MOST_DIFFERENCES
    return words if more <= 0 else [*words[:MOST_DIFFERENCES], f"and {more} more differences"]


def describe(mode, network, photos, settings, teacher=None):
    """Everything that the weights of a run depend on, {name: value}. Of photos, only the pixels count."""
    run = describe_versions() | {"mode": mode}
    numbers = network.architecture | vars(settings)
    run |= {name.replace("_", " "): value for name, value in numbers.items()}
    layers = [type(layer).__name__ for _, layer in network.walk()]
    run["layers"] = f"{len(layers)} ({hashlib.sha256(' '.join(layers).encode()).hexdigest()[:12]})"
    run["start from"] = teacher.name if teacher else "none"
    return run | describe_photos(photos)


def describe_versions():
    return {"Scene": VERSION, "torch": version("torch")}


def describe_photos(photos):
    """The number of photos of each class, and a hash of their pixels, {name: value}."""
    hashes = hash_each(photos.pixels) if photos.hashes is None else photos.hashes
    found = {}
    for name, mine in zip(photos.classes, members(photos.labels, len(photos.classes)), strict=True):
        digits = hashlib.sha256(hashes[mine]).hexdigest()[:12]
        found[f"class {name}"] = f"{len(mine)} photos ({digits})"
    if photos.distilled_from:
        found["distilled from"] = ", ".join(source["sha256"][:12] for source in photos.distilled_from)
    return found


def hash_each(pixels):
    """The SHA-256 of each photo: (N, H, W, 3) -> (N, 32). One at a time: a copy of all might not fit."""
    return np.array([list(hashlib.sha256(as_numpy(photo)).digest()) for photo in pixels], np.uint8)
