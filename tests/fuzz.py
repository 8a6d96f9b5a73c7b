"""Model files that are damaged or lie: each of DAMAGES takes a true file's bytes and a random.Random, and returns a false file.

tests/test_modelfile.py takes a few thousand of them, `python -m tests.bench.soak modelfiles` as many as you like.
"""

import json
import struct

import numpy as np
import safetensors.numpy

from scene import modelfile


def split(data):
    """A model file -> its header as a dictionary, and its weights."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def join(header, weights):
    """The reverse of `split`; a header given as bytes is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def edited(data, **changes):
    """The file with other values in its metadata."""
    header, weights = split(data)
    scene = json.loads(header["__metadata__"]["scene"])
    for place in (scene, scene["card"]):
        place |= {key: value for key, value in changes.items() if key in place}
    header["__metadata__"]["scene"] = json.dumps(scene)
    return join(header, weights)


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
    """A block of the file stands in it twice."""
    start = random.randrange(len(data))
    return data[:start] + data[start:start + random.randint(1, 1000)] + data[start:]


def replace(data, random):
    """Another file altogether."""
    return random.choice([b"", random.randbytes(random.randint(1, 5000)), bytes(len(data)), b"PK\3\4" + data, b"\x80\x04\x95" + data,
                          join({}, data), safetensors.numpy.save({"w": np.zeros(3)}, {"scene": "{}"})])


# Lies


def lie_about_length(data, random):
    """The header's length is wrong."""
    true = struct.unpack("<Q", data[:8])[0]
    return struct.pack("<Q", random.choice([0, true - 1, true + 1, len(data), 2**31, 2**63, random.getrandbits(64)])) + data[8:]


NUMBERS = [0, 1, -1, 3, 2**31, 2**63, 2**64, 2**70, 0.5, None, "4", [], {}]
DTYPES = ["F16", "BF16", "F64", "I32", "U8", "BOOL", "f32", "", None, 4]


def lie_about_array(data, random):
    """The header is wrong about an array's shape, place, type or name."""
    header, weights = split(data)
    name = random.choice([name for name in header if name != "__metadata__"])
    array, number = header[name], random.choice(NUMBERS)
    what = random.choice(["shape", "offset", "offsets", "dtype", "name"])
    if what == "shape":
        array["shape"] = random.choice([number, [number], [*array["shape"], number], array["shape"][1:], [2**32, 2**32]])
    elif what == "offset":
        array["data_offsets"][random.randrange(2)] = number
    elif what == "offsets":
        array["data_offsets"] = random.choice([number, [number] * 2, [number] * 3, array["data_offsets"][::-1], [0, len(weights)]])
    elif what == "dtype":
        array["dtype"] = random.choice(DTYPES)
    else:
        header[random.choice(["", "9.w", "w" * 9999, "../w", "\ud800", name.upper(), *(header.keys() - {name})])] = header.pop(name)
    return join(header, weights)


VALUES = [None, True, 0, 1, 2, 8, -1, 0.5, float("nan"), 2**64, 10**400, "", "sea", "CNN", "\ud800", "x" * 9999, [], {}, [[]], [4], [5],
          ["sea", "meadow"], ["meadow", "sea"], ["sea", "meadow", "road"], {"image_size": 8}]


def put(value, scene, random):
    """Puts a value in place of any one of the metadata."""
    place = random.choice([scene, scene["card"], scene["card"]["architecture"], scene["card"]["classes"]])
    place[random.randrange(len(place)) if isinstance(place, list) else random.choice([*place, "new"])] = value


def lie_about_card(data, random):
    """One value of the metadata is another."""
    header, weights = split(data)
    scene = json.loads(header["__metadata__"]["scene"])
    put(random.choice(VALUES), scene, random)
    header["__metadata__"]["scene"] = json.dumps(scene)
    return join(header, weights)


def nest(data, random):
    """One value of the header or the metadata is JSON so deep that reading or showing it could overflow the stack."""
    header, weights = split(data)
    depth = random.choice([10, 100, *range(900, 1100), 10_000, 60_000])
    left, right = random.choice(["[]", ('{"a":', "}")])
    deep = left * depth + "1" + right * depth
    if random.random() < 0.2:
        header[random.choice([*header, "new"])] = "DEEP"
    else:
        scene = json.loads(header["__metadata__"]["scene"])
        put("DEEP", scene, random)
        header["__metadata__"]["scene"] = json.dumps(scene).replace('"DEEP"', deep)
    return join(json.dumps(header).replace('"DEEP"', deep).encode(), weights)


TWICE = [('"card"', '"format": 1, "card"'), ('"classes"', '"classes": [], "classes"'), ('"fit"', '"fit": "stretch", "fit"'),
         ('{"__metadata__"', '{"__metadata__": {}, "__metadata__"'), ('"0.std"', '"0.mean"'), ('"dtype"', '"dtype": "F32", "dtype"')]


def repeat(data, random):
    """A name stands twice in the header or in the metadata."""
    header, weights = split(data)
    once, twice = random.choice(TWICE)
    header["__metadata__"]["scene"] = header["__metadata__"]["scene"].replace(once, twice, 1)
    return join(json.dumps(header).replace(once, twice, 1).encode(), weights)


def swap(data, random):
    """Two arrays of the same shape have changed places."""
    header, weights = split(data)
    arrays = [array for name, array in header.items() if name != "__metadata__"]
    one, other = random.choice([(a, b) for a in arrays for b in arrays if a is not b and a["shape"] == b["shape"]])
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    return join(header, weights)


def forge(data, random):
    """A true SHA-256 over weights that are no numbers, or over a card that does not go with them."""
    scene = json.loads(split(data)[0]["__metadata__"]["scene"])
    arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    card = scene["card"]
    what = random.choice(["weights", "classes", "mode", "architecture"])
    if what == "weights":
        array = random.choice(list(arrays.values()))
        array.flat[random.randrange(array.size)] = random.choice([np.nan, np.inf, -np.inf])
    elif what == "classes":
        card["classes"] = [f"class {k}" for k in range(random.choice([0, 1, 3, 1000]))]
    elif what == "mode":
        card["mode"] = random.choice(["CNN", "RNN", "", "fcnn", "FCNN\n"])
    else:
        value = random.choice([0, 7, 16, 1025, 10**9, 0.5, [], [5], [4, 4], [10**9], [4.0]])
        card["architecture"][random.choice(["image_size", "hidden"])] = value
    scene["sha256"] = modelfile.digest(card, arrays)
    return safetensors.numpy.save(arrays, {"scene": json.dumps(scene)})


DAMAGES = [flip, truncate, extend, overwrite, insert, replace,
           lie_about_length, lie_about_array, lie_about_card, nest, repeat, swap, forge]
HARMLESS = [flip, overwrite, insert, lie_about_array, lie_about_card, nest]    # these may say the same, with an entry more
