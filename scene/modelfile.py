"""The model file: weights and everything needed to use them, in one safetensors file. No pickle: opening one runs no code.

Weights are stored by name, as safetensors has it, in half precision: its eleven binary digits are more than training settles.
Biases, scales and statistics are few and keep single precision. The rest is one metadata entry, "scene", holding sorted JSON: the format's
number, the card (mode, classes, architecture, how photos are prepared) and a SHA-256 over card and weights. Nothing in it
depends on the day or the machine: the same model is the same bytes.

Next: predict.py
"""

import glob
import hashlib
import json
import os

import numpy as np
import safetensors
import safetensors.numpy

from scene.command import UserError, printable
from scene.models import MODES
from scene.nn.arrays import as_numpy

FORMAT = 1
CARD = {"mode": str, "classes": list, "architecture": dict, "fit": str, "mirror": bool}
FIT = "stretch"             # the one way photo.decode fits a photo to the square
DTYPES = {"F16": "<f2", "F32": "<f4"}
LARGEST_HALF = 65504        # of half precision's numbers
MOST_HEADER = 1 << 18       # bytes; a thousand classes fit well, and JSON takes up to forty times its length in memory


class ModelFileError(UserError):
    """A file that is no model of ours, or a damaged one: says what is wrong with it."""


def save(path, network, card):
    """Writes a network and its card to path. Raises OSError."""
    weights = {slot.name for slot in network.parameter_slots if slot.declared.decay}
    arrays = {name: as_numpy(array) for name, array in network.arrays().items()}
    for name, array in arrays.items():
        half = name in weights and np.abs(array).max() < LARGEST_HALF
        arrays[name] = np.ascontiguousarray(array, "<f2" if half else "<f4")
    scene = {"format": FORMAT, "card": card, "sha256": digest(card, arrays)}
    write(path, safetensors.numpy.save(arrays, {"scene": json.dumps(scene, sort_keys=True)}))


def write(path, data):
    """Writes bytes to path, whole or not at all: an older file there stays until the new one is on the disk. Raises OSError."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(os.path.dirname(path))
    except BaseException as error:
        if os.path.exists(part):
            os.unlink(part)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error      # people know path, not part
        raise


def sweep(path):
    """Deletes what those who were writing path left when they were killed."""
    for part in glob.glob(f"{glob.escape(path)}.*.part"):
        os.unlink(part)


def sync_folder(folder):
    """Puts the names in a folder on the disk, where the system can: a power cut does not bring an old name back."""
    if os.name == "posix":
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load(data):
    """The bytes of a model file -> (network on NumPy arrays, card). Raises ModelFileError."""
    scene = read_scene(data)
    card = scene["card"]
    network = build(card)
    arrays = read_arrays(data, network)
    if scene.get("sha256") != digest(card, arrays):
        raise ModelFileError("its contents do not match its SHA-256: the file was damaged or changed")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ModelFileError("some of its weights are no finite numbers")
    network.place(np.empty(network.size, np.float32), np.empty(network.state_size, np.float32))
    for name, view in network.arrays().items():
        view[...] = arrays[name]
    return network, card


def read_scene(data):
    """Our metadata entry: format, card and SHA-256, checked for their types."""
    length = int.from_bytes(data[:8], "little")
    if length > MOST_HEADER:
        raise ModelFileError("it is not a model file")
    header = read_json(data[8:8 + length], "header")
    entry = header.get("__metadata__", {})
    if not isinstance(entry, dict) or not isinstance(entry.get("scene"), str):
        raise ModelFileError("it is a safetensors file, but not one of Scene's")
    scene = read_json(entry["scene"], "metadata")
    number = scene.get("format")
    if type(number) is not int:
        raise ModelFileError("its format has no number")
    if number != FORMAT:
        raise ModelFileError(f"its format is number {number!r:.20}; this version of Scene reads number {FORMAT}")
    card = scene.get("card")
    if not isinstance(card, dict) or {key: type(value) for key, value in card.items()} != CARD:
        raise ModelFileError("its card is incomplete")
    return scene


def read_json(text, what):
    """A JSON object; every name may stand in it only once."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ModelFileError(f"its {what} names something twice")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError("it is not a model file") from error
    if not isinstance(value, dict):
        raise ModelFileError("it is not a model file")
    return value


def build(card):
    """The network a card describes, still without memory for its weights."""
    classes, architecture = card["classes"], card["architecture"]
    if not all(isinstance(name, str) and name == printable(name) for name in classes) or not 2 <= len(set(classes)) == len(classes):
        raise ModelFileError("its list of classes is damaged")
    if card["mode"] not in MODES or card["fit"] != FIT:
        raise ModelFileError(f"it needs a network of kind {card['mode']!r:.40} on photos made to fit by {card['fit']!r:.40}; "
                             "this version of Scene has no such thing")
    try:
        if not all(sensible(*entry) for entry in architecture.items()):
            raise ValueError("a number is out of range")
        return MODES[card["mode"]](len(classes), **architecture)
    except (TypeError, ValueError) as error:
        raise ModelFileError("its architecture is damaged") from error


def sensible(name, value):
    """Whether an entry of an architecture can be meant: the side of the square, a rate of dropout or a list of widths."""
    if name == "image_size":
        return type(value) is int and 8 <= value <= 1024
    if name == "dropout":
        return type(value) in (int, float) and 0 <= value < 1
    return type(value) is list and 1 <= len(value) <= 100 and all(type(width) is int and 1 <= width <= 100_000 for width in value)


def read_arrays(data, network):
    """The weights by name, which must be just those of the network."""
    try:
        found = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ModelFileError("its weights are damaged") from error
    slots = {slot.name: slot.declared for slot in network.parameter_slots + network.statistic_slots}
    if {name: tuple(a["shape"]) for name, a in found.items()} != {name: declared.shape for name, declared in slots.items()}:
        raise ModelFileError("its weights are not those that its architecture asks for")
    if not all(a["dtype"] == "F32" or a["dtype"] == "F16" and slots[name].decay for name, a in found.items()):
        raise ModelFileError("its weights are of another precision than this version of Scene reads")
    return {name: np.frombuffer(a["data"], DTYPES[a["dtype"]]).reshape(a["shape"]) for name, a in found.items()}


def digest(card, arrays):
    """SHA-256, in hex, over the card and every array's name, shape and numbers."""
    sha = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].shape} ".encode())
        sha.update(np.ascontiguousarray(arrays[name], "<f4"))
    return sha.hexdigest()
