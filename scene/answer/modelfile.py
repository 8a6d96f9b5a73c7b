"""The model file: weights and everything needed to use them, in one safetensors file.

Opening a model file runs no code from it.

Format 2 holds these tensors:

    3.body.0.w, …       parameters and statistics by name: weights in half precision, which holds all digits
                        that training determines, and the few biases, scales and statistics in single
    classes             the names of the classes, UTF-8, separated by NUL bytes
    calibration.…       optional: the arrays of calibration.py and strangeness.py, in single precision

and one metadata entry, "scene", with sorted JSON: the number of the format, the card, and a SHA-256 over card
and tensors. The card:

    mode, architecture  the network, to be made again by models.MODES
    layers              each layer's constructor call: a file with other layers than the code's is refused
    fit, mirror         how a photo is fitted to the square, and whether its mirror image is predicted, too
    terms               optional: the terms of use of the model
    started_from        optional: {"sha256", "terms"} of the model that its training started from
    distilled_from      optional: a list of such entries, of the models that gave its photos soft labels

Nothing in the file depends on the day or the machine: the same model gives the same bytes. Format 1, of Scene
1.0 to 1.4, has the classes in its card but does not list the layers, which are in format1.py.

Next: format1.py
"""

import hashlib
import json
import os
from contextlib import contextmanager
from itertools import zip_longest
from math import isfinite

import numpy as np
import safetensors
import safetensors.numpy

from scene import files
from scene.answer import format1
from scene.errors import UserError, is_printable, printable
from scene.models import MODES
from scene.nn.arrays import as_numpy
from scene.version import VERSION

FORMAT = 2
CARD = {"mode": str, "architecture": dict, "layers": list, "fit": str, "mirror": bool}
OPTIONAL = {"terms": str, "started_from": dict, "distilled_from": list}
SOURCE = {"sha256": str, "terms": str}
CARD_1 = {"mode": str, "classes": list, "architecture": dict, "fit": str, "mirror": bool}
CALIBRATION = "calibration."
FIT = "stretch"             # the only way in which photos.decode fits a photo to the square
DTYPES = {"F16": "<f2", "F32": "<f4", "U8": "u1"}
LARGEST_HALF = 65504        # the largest number in half precision
MOST_HEADER = 1 << 20       # bytes of JSON, which can take forty times as much memory
MOST_CLASSES = 1 << 20      # bytes of their names
ARRAY_ENTRY = 200           # bytes: more than the header needs for an array besides its name
ARGUMENTS = ("a network's arguments must be numbers, lists of widths or short words, and its image size from "
             "8 to 1024")


class ModelFileError(UserError):
    """Not one of Scene's model files, or a damaged one. The message says what is wrong."""


@contextmanager
def named(path):
    """Adds the path to the message of any ModelFileError raised in the block."""
    try:
        yield
    except ModelFileError as error:
        raise ModelFileError(f"{printable(path)} is not a usable model: {error}.") from error


def check_mode(path, found: str, wanted: str) -> None:
    """Raises UserError if a model is not of the mode that the command names."""
    if found != wanted:
        raise UserError(f"{printable(path)} is a model of mode {found}, not {wanted}: name the mode it has.")


def make_card(network, mode: str, classes: list[str], **optional) -> dict:
    """The card of a network.   optional: terms, started_from, distilled_from, and calibration."""
    return {"mode": mode, "classes": list(classes), "architecture": network.architecture,
            "layers": [repr(layer) for layer in network.layers], "fit": FIT, "mirror": True, **optional}


def hash_of(data: bytes) -> str:
    """The SHA-256 of a model file, in hex."""
    return hashlib.sha256(data).hexdigest()


def short_name(data: bytes) -> str:
    """The name of a model in answers: the first 12 hex digits of its file's SHA-256."""
    return hash_of(data)[:12]


def describe_source(data: bytes, card: dict) -> dict:
    """The entry of this model file in the card of a model that was trained with its help."""
    return {"sha256": hash_of(data), "terms": card.get("terms", "")}


def check(network, card: dict) -> None:
    """Raises ModelFileError unless `load` will open the file that `save` writes. Call it before training."""
    told = without_arrays(card)
    check_types(told, FORMAT)
    for name, value in told["architecture"].items():
        if not sensible(name, value):
            raise ModelFileError(f"a model file cannot hold the argument {printable(name)}: {ARGUMENTS}")
    calibration = card.get("calibration", {})
    for name, array in calibration.items():
        if not (np.abs(array) <= np.finfo("<f4").max).all():
            raise ModelFileError(f"its calibration {printable(name)} is NaN or infinite in single precision")
    names = ["scene", "classes", *(CALIBRATION + name for name in calibration)]
    names += [slot.name for slot in network.parameter_slots + network.statistic_slots]
    entries = sum(len(json.dumps(name)) + ARRAY_ENTRY for name in names)
    if len(json.dumps(json.dumps(told))) + entries > MOST_HEADER:
        raise ModelFileError("its layers, terms and calibration are too long for a model file")
    build(told, card["classes"])


def save(path, network, card: dict) -> None:
    """Writes a network and its card, as made by `make_card`, to path. Raises OSError."""
    files.write(path, encode(network, card))


def encode(network, card: dict) -> bytes:
    """The bytes of the model file of a network and its card."""
    weights = {slot.name for slot in network.parameter_slots if slot.declared.decay}
    arrays = {name: as_numpy(array) for name, array in network.arrays().items()}
    for name, array in arrays.items():
        half = name in weights and np.abs(array).max(initial=0) < LARGEST_HALF
        arrays[name] = np.asarray(array, "<f2" if half else "<f4", order="C")
    arrays["classes"] = np.frombuffer("\0".join(card["classes"]).encode(), np.uint8)
    for name, array in card.get("calibration", {}).items():
        arrays[CALIBRATION + name] = np.asarray(array, "<f4", order="C")
    told = without_arrays(card)
    scene = {"format": FORMAT, "card": told, "sha256": digest(told, arrays)}
    return safetensors.numpy.save(arrays, {"scene": json.dumps(scene, sort_keys=True)})


def without_arrays(card):
    """The card without the entries that are stored as tensors."""
    return {name: value for name, value in card.items() if name not in ("classes", "calibration")}


def load(data: bytes):
    """The bytes of a model file -> (network on NumPy arrays, card). Raises ModelFileError."""
    number, told, sha256 = read_scene(data)
    found = read_tensors(data)
    if number == 1:
        classes = told["classes"]
        check_classes(classes)
        network = build_format_1(told)
        card = make_card(network, told["mode"], classes) | told
    else:
        classes = read_classes(found)
        network = build(told, classes)
        card = told | {"classes": classes}
    arrays = read_arrays(found, network, number)
    network.place(np.empty(network.size, np.float32), np.empty(network.state_size, np.float32))
    for name, view in network.arrays().items():
        view[...] = arrays[name]
        arrays[name] = view                 # in single precision from here on
    if sha256 != digest(told, arrays):
        raise ModelFileError("its contents do not match its SHA-256: the file was damaged or changed")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ModelFileError("some of its numbers are NaN or infinite")
    calibration = {name.removeprefix(CALIBRATION): array for name, array in arrays.items()
                   if name.startswith(CALIBRATION)}
    return network, card | ({"calibration": calibration} if calibration else {})


def read_scene(data):
    """The metadata entry, with its types checked: (format, card, SHA-256)."""
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
        raise ModelFileError("its format is not a number")
    if number not in (1, FORMAT):
        raise ModelFileError(f"its format is number {str(number):.20}, but Scene {VERSION} reads 1 and 2")
    card = scene.get("card")
    check_types(card, number)
    return number, card, scene.get("sha256")


def check_types(card, number):
    """Raises ModelFileError unless a card has the entries of a format, each of the right type."""
    if not has_types(card, *((CARD_1,) if number == 1 else (CARD, OPTIONAL))):
        raise ModelFileError("its card is incomplete")
    if not all(type(layer) is str for layer in card.get("layers", ())):
        raise ModelFileError("its list of layers is damaged")
    sources = [*card.get("distilled_from", [])]
    if "started_from" in card:
        sources.append(card["started_from"])
    if not all(has_types(source, SOURCE) for source in sources):
        raise ModelFileError("its card has a damaged entry in started_from or distilled_from")
    for entry in card, *sources:
        if not all(map(is_printable, entry.get("terms", "").split("\n"))):
            raise ModelFileError("its terms hold characters that cannot be shown")


def has_types(value, required, optional=None):
    """Whether a value is a dictionary with these names and types."""
    known = required | (optional or {})
    return (isinstance(value, dict) and required.keys() <= value.keys() <= known.keys()
            and all(type(each) is known[name] for name, each in value.items()))


def read_json(text, what):
    """Parses a JSON object. Raises ModelFileError, also for duplicate names."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ModelFileError(f"its {what} has a duplicate name")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError("it is not a model file") from error
    if not isinstance(value, dict):
        raise ModelFileError("it is not a model file")
    return value


def read_tensors(data):
    """{name: {"dtype", "shape", "data"}} of a safetensors file."""
    try:
        return dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ModelFileError("its weights are damaged") from error


def read_classes(found):
    """The names of the classes, taken out of the tensors that `read_tensors` found."""
    tensor = found.get("classes")
    if tensor is None or tensor["dtype"] != "U8" or tensor["shape"] != [len(tensor["data"])]:
        raise ModelFileError("its list of classes is damaged")
    if len(tensor["data"]) > MOST_CLASSES:              # before split, which takes twenty times the memory
        raise ModelFileError("its list of classes is damaged")
    try:
        classes = bytes(tensor["data"]).decode().split("\0")
    except UnicodeDecodeError as error:
        raise ModelFileError("its list of classes is damaged") from error
    check_classes(classes)
    return classes


def check_classes(classes):
    """Raises ModelFileError unless these are two or more valid and distinct class names."""
    for name in classes:
        if not isinstance(name, str) or not is_printable(name):
            raise ModelFileError("its list of classes is damaged")
        if not files.is_path_component(name):
            raise ModelFileError(f"its class {name!r:.60} cannot be the name of a folder")
    if not 2 <= len(set(classes)) == len(classes):
        raise ModelFileError("its list of classes is damaged")
    if (room := len("\0".join(classes).encode())) > MOST_CLASSES:
        raise ModelFileError(f"the names of its {len(classes)} classes take {room} bytes, but at most "
                             f"{MOST_CLASSES} are read: shorten the names")


def check_kind(card):
    """Raises ModelFileError unless this version has the network of a card and its way of fitting photos."""
    if card["mode"] not in MODES or card["fit"] != FIT:
        raise ModelFileError(f"it needs a network of kind {card['mode']!r:.40} and photos fitted by "
                             f"{card['fit']!r:.40}, which this version of Scene does not have")


def build(card, classes):
    """The network of a card, still without arrays. Raises ModelFileError if its layers are not the card's."""
    check_kind(card)
    check_classes(classes)
    network = construct(MODES[card["mode"]].network, card, classes)
    now = [repr(layer) for layer in network.layers]
    for i, (then, here) in enumerate(zip_longest(card["layers"], now)):
        if then != here:
            then, here = differences(printable(then or "nothing"), here or "nothing")
            raise ModelFileError(f"its layer {i} is {then}, and this version's {card['mode']} has {here} "
                                 "there")
    return network


def differences(then, here):
    """Two descriptions of a layer, each cut to the part where they begin to differ."""
    same = len(os.path.commonprefix([then, here]))
    start = max(0, same - 30)
    dots = "…" if start else ""
    return [dots + text[start:start + 60] + ("…" if len(text) > start + 60 else "") for text in (then, here)]


def build_format_1(card):
    """The network of a card of format 1: the layers of Scene 1.4."""
    check_kind(card)
    if card["mode"] not in format1.NETWORKS:
        raise ModelFileError(f"format 1 has no network of kind {card['mode']!r:.40}")
    return construct(format1.NETWORKS[card["mode"]], card, card["classes"])


def construct(kind, card, classes):
    """Calls a network's constructor with the architecture of a card. Raises ModelFileError."""
    try:
        if not all(sensible(*entry) for entry in card["architecture"].items()):
            raise ValueError("a number is out of range")
        return kind(len(classes), **card["architecture"])
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ModelFileError("its architecture is damaged") from error


def sensible(name, value):
    """Whether a value can be an argument of a network: a number, a short word or a list of widths."""
    if name == "image_size":
        return type(value) is int and 8 <= value <= 1024
    if type(value) is list:
        return 1 <= len(value) <= 100 and all(type(width) is int and 1 <= width <= 100_000 for width in value)
    if type(value) is int:
        return 0 <= value <= 10_000
    if type(value) is str:
        return len(value) <= 40 and is_printable(value)
    return type(value) is bool or type(value) is float and isfinite(value)


def read_arrays(found, network, number):
    """The tensors by name. The parameters and statistics must be exactly the network's."""
    slots = {slot.name: slot.declared for slot in network.parameter_slots + network.statistic_slots}
    own = [name for name in found if number == 1 or name != "classes" and not name.startswith(CALIBRATION)]
    shapes = {name: tuple(found[name]["shape"]) for name in own}
    if shapes != {name: declared.shape for name, declared in slots.items()}:
        raise ModelFileError("its weights are not those of its architecture")
    for name, tensor in found.items():
        half = name in slots and slots[name].decay
        wanted = {"U8"} if name == "classes" else {"F32", "F16"} if half else {"F32"}
        if tensor["dtype"] not in wanted:
            raise ModelFileError("its weights have a precision that this version of Scene does not read")
    return {name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            for name, tensor in found.items()}


def digest(card, arrays):
    """SHA-256, in hex, over the card and every array's name, shape and numbers."""
    sha = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].shape} ".encode())
        sha.update(np.ascontiguousarray(arrays[name], "<f4"))
    return sha.hexdigest()
