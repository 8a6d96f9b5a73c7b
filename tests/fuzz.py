"""Damaged and forged model files: each of DAMAGES makes one from a good file's bytes and a random.Random.

tests/test_modelfile.py tries a few thousand, `python -m tests.bench.soak modelfiles` as many as you like.
"""

import json
import struct

import numpy as np
import safetensors.numpy
import torch

from scene.answer import modelfile
from scene.answer.modelfile import ModelFileError
from scene.models import FCNN
from scene.nn.arrays import as_numpy

# Good files, one of each format


def started(network):
    """The network with random numbers that half precision holds, so that no two arrays are alike."""
    generator = torch.Generator().manual_seed(0)
    network.start(generator)
    for vector in network.params, network.state:
        vector.add_(torch.randn(vector.shape, generator=generator), alpha=0.01).copy_(vector.half())
    return network


NETWORK = started(FCNN(2, 8, hidden=(4,)))
CLASSES = ["sea", "meadow"]
OPTIONAL = {
    "terms": "For research only.",
    "started_from": {"sha256": "5ea" * 21 + "5", "terms": ""},
    "distilled_from": [{"sha256": "7ea" * 21 + "7", "terms": "For my aunt."}],
    "calibration": {"temperature": np.float32([1.5]), "shift": np.float32([[0.25, -0.25, 0.5], [0, 1, 2]])},
}


def card_of(network, classes=CLASSES, **optional):
    """The card of a network of models.py."""
    return modelfile.make_card(network, type(network).__name__, list(classes), **optional)


def saved(folder, network=NETWORK):
    """The bytes of the network's model file, with every optional entry."""
    modelfile.save(folder / "model", network, card_of(network, **OPTIONAL))
    return (folder / "model").read_bytes()


def saved_as_format_1(network=NETWORK, card=None):
    """The bytes of the network's model file as Scene 1.4 wrote it, in format 1."""
    card = card or card_of(network)
    told = {name: card[name] for name in modelfile.CARD_1}
    weights = {slot.name for slot in network.parameter_slots if slot.declared.decay}
    arrays = {name: as_numpy(array) for name, array in network.arrays().items()}
    for name, array in arrays.items():
        half = name in weights and np.abs(array).max() < modelfile.LARGEST_HALF
        arrays[name] = np.ascontiguousarray(array, "<f2" if half else "<f4")
    scene = {"format": 1, "card": told, "sha256": modelfile.digest(told, arrays)}
    return safetensors.numpy.save(arrays, {"scene": json.dumps(scene, sort_keys=True)})


def as_text(card):
    """A card as JSON, to compare: arrays have no == of their own, and 1 == True."""
    calibration = {name: np.float32(array).tolist() for name, array in card.get("calibration", {}).items()}
    return json.dumps(card | {"calibration": calibration}, sort_keys=True)


TRUE_CARDS = {1: as_text(card_of(NETWORK)), 2: as_text(card_of(NETWORK, **OPTIONAL))}


def is_refused(broken):
    """Whether a damaged file is refused. If not, it must still hold the right numbers and card."""
    try:
        network, card = modelfile.load(broken)
    except ModelFileError as error:
        assert str(error).isprintable() and len(str(error)) < 200
        return True
    assert as_text(card) == TRUE_CARDS[scene_of(split(broken)[0])["format"]]
    assert network.params.tobytes() == NETWORK.params.numpy().tobytes()
    assert network.state.tobytes() == NETWORK.state.numpy().tobytes()
    return False


# Editing


def split(data):
    """A model file -> its header as a dictionary, and its weights."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def join(header, weights):
    """The reverse of `split`. A header given as bytes is used as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def scene_of(header):
    """The metadata in a header."""
    return json.loads(header["__metadata__"]["scene"])


def edited(data, **changes):
    """The file with other values in its metadata."""
    header, weights = split(data)
    scene = scene_of(header)
    for place in (scene, scene["card"]):
        place |= {key: value for key, value in changes.items() if key in place}
    header["__metadata__"]["scene"] = json.dumps(scene)
    return join(header, weights)


def rewritten(data, change, signed):
    """The file after change(card, arrays), with its old SHA-256 or, if `signed`, with the right one."""
    scene = scene_of(split(data)[0])
    arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    change(scene["card"], arrays)
    if signed:
        scene["sha256"] = modelfile.digest(scene["card"], arrays)
    return safetensors.numpy.save(arrays, {"scene": json.dumps(scene)})


# Damage


def flip(data, random):
    """One to eight bits are wrong."""
    broken = bytearray(data)
    for _ in range(random.randint(1, 8)):
        broken[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(broken)


def truncate(data, random):
    """The end is missing."""
    return data[:random.randrange(len(data))]


def extend(data, random):
    """Something follows the end."""
    return data + random.randbytes(random.randint(1, 100))


def overwrite(data, random):
    """A block of the file is noise, or zeros, or another block of it."""
    length = random.randint(1, len(data) // 2)
    start, other = (random.randrange(len(data) - length) for _ in range(2))
    block = random.choice([random.randbytes(length), bytes(length), data[other:other + length]])
    return data[:start] + block + data[start + length:]


def insert(data, random):
    """A block of the file is duplicated."""
    start = random.randrange(len(data))
    return data[:start] + data[start:start + random.randint(1, 1000)] + data[start:]


def replace(data, random):
    """Another file altogether."""
    return random.choice([
        b"", random.randbytes(random.randint(1, 5000)), bytes(len(data)),
        b"PK\3\4" + data, b"\x80\x04\x95" + data,
        join({}, data), safetensors.numpy.save({"w": np.zeros(3)}, {"scene": "{}"})])


# Lies about the header


def lie_about_length(data, random):
    """The header's length is wrong."""
    true = struct.unpack("<Q", data[:8])[0]
    length = random.choice([0, true - 1, true + 1, len(data), 2**31, 2**63, random.getrandbits(64)])
    return struct.pack("<Q", length) + data[8:]


NUMBERS = [0, 1, -1, 3, 2**31, 2**63, 2**64, 2**70, 0.5, None, "4", [], {}]
DTYPES = ["F16", "BF16", "F64", "I32", "U8", "BOOL", "f32", "", None, 4]


def lie_about_array(data, random):
    """The header is wrong about an array's shape, place, type or name."""
    header, weights = split(data)
    name = random.choice([name for name in header if name != "__metadata__"])
    array, number = header[name], random.choice(NUMBERS)
    what = random.choice(["shape", "offset", "offsets", "dtype", "name"])
    if what == "shape":
        shape = array["shape"]
        array["shape"] = random.choice([number, [number], [*shape, number], shape[1:], [2**32, 2**32]])
    elif what == "offset":
        array["data_offsets"][random.randrange(2)] = number
    elif what == "offsets":
        start, end = array["data_offsets"]
        array["data_offsets"] = random.choice(
            [number, [number] * 2, [number] * 3, [end, start], [0, len(weights)]])
    elif what == "dtype":
        array["dtype"] = random.choice(DTYPES)
    else:
        others = [other for other in header if other != name]
        odd = ["", "9.w", "w" * 9999, "../w", "\ud800", name.upper(), f"calibration.{name}"]
        header[random.choice(odd + others)] = header.pop(name)
    return join(header, weights)


TWICE = [
    ('"card"', '"format": 1, "card"'),
    ('"card"', '"format": 2, "card"'),
    ('"fit"', '"fit": "stretch", "fit"'),
    ('"classes"', '"classes": [], "classes"'),
    ('"layers"', '"layers": [], "layers"'),
    ('"terms"', '"terms": "", "terms"'),
    ('"dtype"', '"dtype": "F32", "dtype"'),
    ('"0.std"', '"0.mean"'),
    ('{"__metadata__"', '{"__metadata__": {}, "__metadata__"'),
]


def repeat(data, random):
    """A name is used twice in the header or in the metadata."""
    header, weights = split(data)
    scene = header["__metadata__"]["scene"]
    once, twice = random.choice([pair for pair in TWICE if pair[0] in scene or pair[0] in json.dumps(header)])
    header["__metadata__"]["scene"] = scene.replace(once, twice, 1)
    return join(json.dumps(header).replace(once, twice, 1).encode(), weights)


def swap(data, random):
    """Two arrays of the same shape have changed places."""
    header, weights = split(data)
    arrays = [array for name, array in header.items() if name != "__metadata__"]
    pairs = [(a, b) for a in arrays for b in arrays if a is not b and a["shape"] == b["shape"]]
    one, other = random.choice(pairs)
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    return join(header, weights)


# Lies about the card


VALUES = [None, True, 0, 1, 2, 8, -1, 0.5, float("nan"), 2**64, 10**400,
          "", "sea", "CNN", "\ud800", "\x1b[31m", "x" * 9999,
          [], {}, [[]], [4], [5], {"image_size": 8},
          ["sea", "meadow"], ["meadow", "sea"], ["sea", "meadow", "road"]]


def put(value, scene, random):
    """Replaces a random value of the metadata."""
    inner = [entry for entry in scene["card"].values() if isinstance(entry, (dict, list))]
    place = random.choice([scene, scene["card"], *inner])
    key = random.randrange(len(place)) if isinstance(place, list) else random.choice([*place, "new"])
    place[key] = value


def lie_about_card(data, random):
    """One value of the metadata is wrong."""
    header, weights = split(data)
    scene = scene_of(header)
    put(random.choice(VALUES), scene, random)
    header["__metadata__"]["scene"] = json.dumps(scene)
    return join(header, weights)


def nest(data, random):
    """One value is JSON nested so deep that reading or showing it could overflow the stack."""
    header, weights = split(data)
    depth = random.choice([10, 100, *range(900, 1100), 10_000, 60_000])
    left, right = random.choice(["[]", ('{"a":', "}")])
    deep = left * depth + "1" + right * depth
    if random.random() < 0.2:
        header[random.choice([*header, "new"])] = "DEEP"
    else:
        scene = scene_of(header)
        put("DEEP", scene, random)
        header["__metadata__"]["scene"] = json.dumps(scene).replace('"DEEP"', deep)
    return join(json.dumps(header).replace('"DEEP"', deep).encode(), weights)


def forge(data, random):
    """The SHA-256 is right, but numbers are NaN, or the card does not fit them."""
    def change(card, arrays):
        what = random.choice(["weights", "mode", "architecture"])
        if what == "weights":
            array = random.choice([array for array in arrays.values() if array.dtype.kind == "f"])
            array.flat[random.randrange(array.size)] = random.choice([np.nan, np.inf, -np.inf])
        elif what == "mode":
            card["mode"] = random.choice(["CNN", "RNN", "", "fcnn", "FCNN\n"])
        else:
            value = random.choice([0, 7, 16, 1025, 10**9, 0.5, [], [5], [4, 4], [10**9], [4.0]])
            card["architecture"][random.choice(["image_size", "hidden"])] = value

    return rewritten(data, change, signed=True)


# The values called BAD are refused even if the SHA-256 is right.
BAD_NAMES = ["", ".", "..", "a/b", "a\\b", "/", "x" * 256, "海" * 86, "sea", "\x1b[31m", "meadow\n", "\x7f"]
BAD_LISTS = [[], ["sea"], ["sea", 1], ["sea", None], [["sea"], "meadow"], ["sea", "meadow", "road"]]
BAD_BYTES = [b"", b"\0", b"sea", b"sea\0meadow\0", b"\0sea\0meadow", b"sea\0\0meadow", b"sea\0meadow\0road",
             b"sea\0" * 999, "\0".join(map(str, range(1000))).encode(),
             b"sea\0meado\xff", b"sea\0meado\xe6\xb5", b"sea\0\xed\xa0\x80"]
OTHER_NAMES = [["meadow", "sea"], ["sea", "forest"], ["Sea", "meadow"], ["sea", "meadow "]]


def lie_about_classes(data, random):
    """The names of the classes are wrong or invalid, or not bytes."""
    what = random.choice(["name", "others", "bytes", "dtype", "shape", "gone"])

    def change(card, arrays):
        if what == "name":
            write_classes(card, arrays, random.sample(["sea", random.choice(BAD_NAMES)], 2))
        elif what == "others":
            write_classes(card, arrays, random.choice(OTHER_NAMES))
        elif "classes" in card:
            card["classes"] = random.choice(BAD_LISTS)
        elif what == "bytes":
            arrays["classes"] = np.frombuffer(random.choice(BAD_BYTES), np.uint8)
        elif what == "dtype":
            arrays["classes"] = arrays["classes"].astype(random.choice(["i1", "i4", "f2", "f4", "f8"]))
        elif what == "shape":
            arrays["classes"] = arrays["classes"].reshape(random.choice([(-1, 1), (1, -1), (2, -1)]))
        else:
            other = random.choice(["Classes", "classes.", "calibration.classes", "0.classes"])
            arrays[other] = arrays.pop("classes")

    return rewritten(data, change, signed=what != "others" and random.random() < 0.5)


def write_classes(card, arrays, names):
    """Stores other names of classes in a file of either format."""
    if "classes" in card:
        card["classes"] = names
    else:
        arrays["classes"] = np.frombuffer("\0".join(names).encode(), np.uint8)


BAD_LAYERS = [None, 3, True, "", "nothing", "None", "ReLU", "ReLU(x=1)", "Linear(inputs=4, outputs=3)",
              "x" * 9999, "\x1b[31m", "\ud800", [], ["ReLU()"], {}, {"ReLU": 1}]
NO_LISTS = [None, "", "ReLU()", {}, {"0": "ReLU()"}, 7]


def lie_about_layers(data, random):
    """The list of layers is wrong or missing, or a file of format 1 has one."""
    def change(card, arrays):
        layers = card.setdefault("layers", ["ReLU()"])
        at, bad = random.randrange(len(layers)), random.choice(BAD_LAYERS)
        what = random.choice(["missing", "no list", "one more", "one less", "another", "argument"])
        if what == "no list":
            card["layers"] = random.choice(NO_LISTS)
        elif what == "one more":
            layers.insert(random.choice([at, len(layers)]), bad)
        elif what == "another":
            layers[at] = bad
        elif what == "argument":
            layers[at] = layers[at].replace("=", "=1", 1).replace("()", "(1)")
        elif what == "one less" and len(layers) > 1:
            del layers[at]
        elif "classes" not in card:
            del card["layers"]

    return rewritten(data, change, signed=random.random() < 0.5)


BAD_TERMS = [None, 0, True, [], ["free"], {}, {"sha256": ""}]
BAD_SOURCES = [None, 0, "", [], {}, {"sha256": ""}, {"terms": ""}, {"sha256": None, "terms": ""},
               {"sha256": "", "terms": 1}, {"sha256": "", "terms": "", "new": ""}]


def lie_about_terms(data, random):
    """The terms of use, or the models that helped with the training, are wrong or missing."""
    name, bad = random.choice([("terms", BAD_TERMS), ("started_from", BAD_SOURCES),
                               ("distilled_from", BAD_SOURCES[:3] + [[source] for source in BAD_SOURCES])])
    source = {"sha256": "", "terms": ""}
    other = {"terms": "Free for all.", "started_from": source, "distilled_from": [source, source]}[name]
    what = random.choice(["bad", "other", "missing"])

    def change(card, arrays):
        if what == "bad" or "classes" in card:
            card[name] = random.choice(bad)
        elif what == "other":
            card[name] = other
        else:
            del card[name]

    return rewritten(data, change, signed=what == "bad" and random.random() < 0.5)


ODD_NAMES = ["shift", "calibration", "Calibration.x", ".calibration.x", "calibration.", "calibration.x",
             "calibration.../x", "calibration.\n", "calibration.海", "calibration." + "x" * 999]


def lie_about_calibration(data, random):
    """A tensor of the calibration is changed, renamed, missing or of another type, or format 1 has one."""
    what = random.choice(["dtype", "number", "change", "shape", "name", "more", "missing"])

    def change(card, arrays):
        if "classes" in card:
            arrays["calibration.shift"] = np.float32([1.5])
        name = random.choice([name for name in arrays if name.startswith("calibration.")])
        array = arrays[name]
        if what == "dtype":
            arrays[name] = array.astype(random.choice(["f2", "f8", "i4", "u1"]))
        elif what == "number":
            array.flat[random.randrange(array.size)] = random.choice([np.nan, np.inf, -np.inf])
        elif what == "change":
            array.flat[random.randrange(array.size)] += 2**-20
        elif what == "shape":
            arrays[name] = array[None]
        elif what == "name":
            arrays[random.choice(ODD_NAMES)] = arrays.pop(name)
        elif what == "more":
            arrays[random.choice(ODD_NAMES)] = array
        elif "classes" not in card:
            del arrays[name]

    return rewritten(data, change, signed=what in ("dtype", "number") and random.random() < 0.5)


DAMAGES = [flip, truncate, extend, overwrite, insert, replace,
           lie_about_length, lie_about_array, repeat, swap, lie_about_card, nest, forge,
           lie_about_classes, lie_about_layers, lie_about_terms, lie_about_calibration]
HARMLESS = [flip, overwrite, insert, lie_about_array, lie_about_card, nest]     # may change nothing
