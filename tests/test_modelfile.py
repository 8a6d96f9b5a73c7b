"""scene/answer/modelfile.py: what is saved is loaded, and no other bytes are, whatever they claim."""

import hashlib
import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scene.models
from scene.answer import format1, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.modelfile import ModelFileError
from scene.models import FCNN, MODES
from scene.nn.activation import ReLU
from scene.nn.layer import Layer, Network, Parameter, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.version import VERSION
from tests import fuzz
from tests.fuzz import CLASSES, NETWORK, OPTIONAL, card_of, edited, join, saved, saved_as_format_1, split


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folder")


def same_numbers(network, other):
    """Whether two networks of either library have the same parameters and statistics."""
    return all(np.array_equal(getattr(network, name), getattr(other, name)) for name in ("params", "state"))


def round_trip(folder, network, card):
    """The (network, card) that is loaded after saving these."""
    modelfile.save(folder / "model", network, card)
    return modelfile.load((folder / "model").read_bytes())


def with_tensors(data, tensors, signed=True):
    """The file with other tensors, {name: array}. If `signed`, its SHA-256 is true."""
    return fuzz.rewritten(data, lambda card, arrays: arrays.update(tensors), signed)


# Saving and loading


@pytest.mark.parametrize("mode", MODES)
def test_what_is_saved_is_loaded_with_the_same_logits(mode, tmp_path):
    network = fuzz.started(MODES[mode].network(3, image_size=32))
    card = modelfile.make_card(network, mode, ["海", "a b", "ø"])
    loaded, card_again = round_trip(tmp_path, network, card)
    assert card_again == card
    for name, array in network.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array.numpy())
    pixels = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    z = network.forward(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(loaded.forward(pixels), z, atol=1e-4)
    loaded.place(torch.from_numpy(loaded.params), torch.from_numpy(loaded.state))
    np.testing.assert_array_equal(loaded.forward(torch.from_numpy(pixels)).numpy(), z)


@pytest.mark.parametrize("size, good", [(7, False), (8, True), (1024, True), (1025, False), (True, False)])
def test_image_sizes_that_a_model_may_have(size, good):
    assert modelfile.sensible("image_size", size) == good


def test_the_same_model_is_the_same_bytes(data, tmp_path):
    for name in "ab":
        modelfile.save(tmp_path / name, NETWORK, dict(reversed(card_of(NETWORK, **OPTIONAL).items())))
        assert (tmp_path / name).read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]       # no temporary file remains


def test_a_failing_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"older")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        modelfile.save(tmp_path / "model", NETWORK, card_of(NETWORK))
    assert caught.value.filename == str(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_bytes() == b"older"


def test_weights_are_halves_where_they_fit_and_the_rest_is_single(tmp_path):
    network = fuzz.started(FCNN(2, 8, hidden=(4,)))
    network.layers[2].w[0, 0] = 0.1
    network.layers[2].b[0] = 0.1
    network.layers[6].w[0, 0] = 1e5
    loaded, _ = modelfile.load(saved(tmp_path, network))
    assert loaded.layers[2].w[0, 0] == np.float16(0.1) and loaded.layers[2].b[0] == np.float32(0.1)
    assert loaded.layers[6].w[0, 0] == 1e5, "too large for a half"


def test_arrays_that_are_not_contiguous_are_saved_right(tmp_path):
    class Transposed:
        parameter_slots = NETWORK.parameter_slots

        def arrays(self):
            return {name: array.movedim(0, -1).contiguous().movedim(-1, 0)
                    for name, array in NETWORK.arrays().items()}

    loaded, _ = round_trip(tmp_path, Transposed(), card_of(NETWORK))
    np.testing.assert_array_equal(loaded.params, NETWORK.params.numpy())


def test_a_network_without_dropout_is_loaded(tmp_path):
    network = FCNN(2, 8, hidden=(4,), dropout=0).start(torch.Generator())
    assert modelfile.load(saved(tmp_path, network))[1]["architecture"]["dropout"] == 0


# Optional entries


def test_terms_and_the_model_that_training_started_from_are_kept(data, tmp_path):
    source = modelfile.describe_source(data, card_of(NETWORK, terms="For research only."))
    assert source == {"sha256": hashlib.sha256(data).hexdigest(), "terms": "For research only."}
    assert modelfile.describe_source(data, card_of(NETWORK))["terms"] == ""
    terms = "Line one.\nLine two: «free», \"as in\" \\ beer. 海"
    card = card_of(NETWORK, terms=terms, started_from=source)
    modelfile.check(NETWORK, card)
    assert round_trip(tmp_path, NETWORK, card)[1] == card


@pytest.mark.parametrize("array", [
    np.float32([1.5]), np.float32([[0.1, -0.0], [3e38, 1e-45]]), np.float64([0.1]), np.zeros((0, 3)),
    np.arange(6).reshape(2, 3).T, [1, 2]], ids=lambda array: str(np.shape(array)))
def test_calibration_is_kept_in_single_precision(array, tmp_path):
    card = card_of(NETWORK, calibration={"temperature": array, "a.b": np.float32([2])})
    modelfile.check(NETWORK, card)
    network, loaded = round_trip(tmp_path, NETWORK, card)
    assert same_numbers(network, NETWORK) and loaded["calibration"].keys() == {"temperature", "a.b"}
    found = loaded["calibration"]["temperature"]
    assert found.dtype == np.float32 and found.shape == np.shape(array)
    assert found.tobytes() == np.ascontiguousarray(array, np.float32).tobytes()


def test_a_card_without_calibration_has_none_when_loaded(tmp_path):
    assert round_trip(tmp_path, NETWORK, card_of(NETWORK, calibration={}))[1] == card_of(NETWORK)


# Edited files


def test_one_bit_of_a_weight_is_noticed(data):
    broken = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ModelFileError, match="do not match its SHA-256"):
        modelfile.load(broken)


def architecture(**changes):
    return {"architecture": {"image_size": 8, "hidden": [4], "dropout": 0.3} | changes}


EDITS = [
    ({"format": 3}, f"its format is number 3, but Scene {VERSION} reads 1 and 2"),
    ({"format": -1}, "its format is number -1, but"),
    ({"format": 10**4000}, "its format is number 10000000000000000000, but"),
    ({"format": True}, "its format is not a number"),
    ({"format": "1"}, "its format is not a number"),
    ({"format": 1.0}, "its format is not a number"),
    ({"mode": "RNN"}, "it needs a network of kind 'RNN'"),
    ({"mode": "R" * 100}, f"it needs a network of kind '{'R' * 39} and"),
    ({"mode": "\x1b[31m"}, r"it needs a network of kind '\\x1b\[31m'"),
    ({"mode": "CNN", "architecture": {"image_size": 0.5}}, "its architecture is damaged"),
    ({"fit": "crop"}, "photos fitted by 'crop'"),
    ({"mirror": False}, "do not match its SHA-256"),
    ({"mirror": 1}, "its card is incomplete"),
    ({"sha256": "0" * 64}, "do not match its SHA-256"),
    ({"sha256": None}, "do not match its SHA-256"),
    (architecture(image_size=0), "its architecture is damaged"),
    (architecture(image_size=-8), "its architecture is damaged"),
    (architecture(image_size=7), "its architecture is damaged"),
    (architecture(image_size=1025), "its architecture is damaged"),
    (architecture(image_size=8.0), "its architecture is damaged"),
    (architecture(image_size=None), "its architecture is damaged"),
    (architecture(image_size=10**30), "its architecture is damaged"),
    (architecture(image_size="8"), "its architecture is damaged"),
    (architecture(hidden=[0]), "its architecture is damaged"),
    (architecture(hidden=[4.0]), "its architecture is damaged"),
    (architecture(hidden=[]), "its architecture is damaged"),
    (architecture(hidden=4), "its architecture is damaged"),
    (architecture(hidden="x"), "its architecture is damaged"),
    (architecture(dropout=1.0), "its architecture is damaged"),
    (architecture(dropout="0"), "its architecture is damaged"),
    (architecture(dropout=float("nan")), "its architecture is damaged"),
    (architecture(classes=2), "its architecture is damaged"),
    (architecture(self=2), "its architecture is damaged"),
    (architecture(cls=2), "its architecture is damaged"),
    ({"architecture": {"depth": 3}}, "its architecture is damaged"),
]
EDITS_OF_1 = [
    ({"format": 2}, "its card is incomplete"),
    ({"classes": ["sea"]}, "its list of classes is damaged"),
    ({"classes": ["sea", "sea"]}, "its list of classes is damaged"),
    ({"classes": ["sea", 1]}, "its list of classes is damaged"),
    ({"classes": ["sea", ".."]}, "cannot be the name of a folder"),
    ({"classes": ["sea", "\x1b[31m"]}, "its list of classes is damaged"),
    ({"classes": ["sea", "meadow", "road"]}, "its weights are not those of its architecture"),
    ({"classes": ["sea", "forest"]}, "do not match its SHA-256"),
    (architecture(image_size=9), "its weights are not those of its architecture"),
    (architecture(hidden=[5]), "its weights are not those of its architecture"),
]
EDITS_OF_2 = [
    ({"format": 1}, "its card is incomplete"),
    (architecture(image_size=9), r"its layer 2 is Linear\(inputs=192, .* has Linear\(inputs=243, .* there"),
    (architecture(hidden=[5]), r"its layer 2 is Linear\(.*outputs=4\), .* has Linear\(.*outputs=5\)"),
    (architecture(hidden=[4, 4]), r"its layer 6 is Linear\(.*outputs=2\), .* has Linear\(.*outputs=4\)"),
    (architecture(dropout=0.5), r"its layer 5 is Dropout\(rate=0.3\), .* has Dropout\(rate=0.5\) there"),
    ({"layers": []}, r"its layer 0 is nothing, and this version's FCNN has Normalize\(channels=3\) there"),
    ({"layers": None}, "its card is incomplete"),
    ({"terms": None}, "its card is incomplete"),
    ({"terms": "Free."}, "do not match its SHA-256"),
    ({"started_from": []}, "its card is incomplete"),
    ({"started_from": {}}, "its card has a damaged entry in started_from or distilled_from"),
    ({"started_from": {"sha256": "", "terms": "", "x": ""}}, "a damaged entry in started_from"),
    ({"distilled_from": {}}, "its card is incomplete"),
    ({"distilled_from": [{"sha256": "", "terms": ""}, {}]}, "a damaged entry in started_from"),
    ({"distilled_from": [{"sha256": "", "terms": ""}, {"sha256": "", "terms": "\x1b[2J"}]},
     "its terms hold characters that cannot be shown"),
    ({"started_from": {"sha256": "", "terms": ""}}, "do not match its SHA-256"),
]


@pytest.mark.parametrize("changes, message", EDITS + EDITS_OF_2)
def test_edited_metadata_is_refused(data, changes, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(edited(data, **changes))


@pytest.mark.parametrize("changes, message", EDITS + EDITS_OF_1)
def test_edited_metadata_of_format_1_is_refused(changes, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(edited(saved_as_format_1(), **changes))


@pytest.mark.parametrize("text, message", [
    (b"", "it is not a model file"),
    (b"PK\3\4 a pickle in a zip", "it is not a model file"),
    (join(b"[]", b""), "it is not a model file"),
    (join(b"{}", b""), "not one of Scene's"),
    (join(b'{"__metadata__": {"format": "pt"}}', b""), "not one of Scene's"),
    (join(b'{"__metadata__": {"scene": "[1]"}}', b""), "it is not a model file"),
    (join(b'{"a": 1, "a": 2}', b""), "its header has a duplicate name"),
    (join(b'{"__metadata__": {"scene": "{\\"format\\": 1, \\"format\\": 1}"}}', b""),
     "its metadata has a duplicate name"),
    (join(b"[" * 100_000, b""), "it is not a model file"),
    (join(b"{}" + b" " * modelfile.MOST_HEADER, b""), "it is not a model file"),
])
def test_other_files_are_refused(text, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(text)


def test_a_name_twice_among_the_weights_is_refused(data):
    header, weights = split(data)
    text = json.dumps(header).replace('"0.std"', '"0.mean"')
    with pytest.raises(ModelFileError, match="its header has a duplicate name"):
        modelfile.load(join(text.encode(), weights))


@pytest.mark.parametrize("name, array, message", [
    ("calibration.shift", np.float16([1]), "a precision that this version"),
    ("calibration.shift", np.float64([1]), "a precision that this version"),
    ("calibration.shift", np.uint8([1]), "a precision that this version"),
    ("calibration.shift", np.float32([np.nan]), "some of its numbers are NaN or infinite"),
    ("calibration.shift", np.float32([np.inf]), "some of its numbers are NaN or infinite"),
    ("calibration", np.float32([1]), "its weights are not those of its architecture"),
    ("Calibration.shift", np.float32([1]), "its weights are not those of its architecture"),
    ("2.b", np.float16([1, 2, 3, 4]), "a precision that this version"),
    ("2.b", np.float32([1, 2, 3, 4, 5]), "its weights are not those of its architecture"),
    ("2.b", np.float32([1, 2, 3, np.nan]), "some of its numbers are NaN or infinite"),
])
def test_a_tensor_that_does_not_belong_there_is_refused_under_a_true_sha256(data, name, array, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(with_tensors(data, {name: array}))


# Layers


class Leaky(ReLU):
    """Another class than ReLU."""


def fcnn_of(change):
    """A class like FCNN, but of the layers change(layers)."""
    class Changed(FCNN):
        def __init__(self, classes, image_size, hidden, dropout):
            super().__init__(classes, image_size, hidden, dropout)
            Network.__init__(self, *change(list(self.layers)))

    return Changed


def replaced(old, new):
    """For `fcnn_of`: each layer of the class `old` by new(layer)."""
    return lambda layers: [new(layer) if type(layer) is old else layer for layer in layers]


@pytest.mark.parametrize("change, message", [
    (replaced(ReLU, lambda layer: Leaky()),
     "its layer 4 is ReLU(), and this version's FCNN has Leaky() there"),
    (replaced(BatchNorm, lambda layer: BatchNorm(layer.channels, epsilon=1e-3)),
     "epsilon=1e-05), and this version's FCNN has "),
    (lambda layers: layers[:-1],
     "its layer 6 is Linear(inputs=4, outputs=2), and this version's FCNN has nothing there"),
    (lambda layers: [*layers, Leaky()], "its layer 7 is nothing, and this version's FCNN has Leaky() there"),
], ids=["class", "argument", "fewer", "more"])
def test_a_network_of_other_layers_than_the_files_is_refused(change, message, data, monkeypatch):
    monkeypatch.setitem(MODES, "FCNN", MODES["FCNN"]._replace(network=fcnn_of(change)))
    for refuse in (lambda: modelfile.load(data), lambda: modelfile.check(NETWORK, card_of(NETWORK))):
        with pytest.raises(ModelFileError) as caught:
            refuse()
        assert message in str(caught.value)
    loaded, card = modelfile.load(saved_as_format_1())          # format 1 always has the layers of Scene 1.4
    assert same_numbers(loaded, NETWORK) and card["layers"] == card_of(NETWORK)["layers"]


def test_another_default_of_a_layer_shows_in_its_arguments(data, monkeypatch):
    class Changed(BatchNorm):
        def __init__(self, channels, momentum=0.1, epsilon=1e-3):
            super().__init__(channels, momentum, epsilon)

    Changed.__name__ = "BatchNorm"
    monkeypatch.setattr(scene.models, "BatchNorm", Changed)
    with pytest.raises(ModelFileError, match="its layer 3 is .*epsilon=1e-05.* has .*epsilon=0.001.* there"):
        modelfile.load(data)


def test_a_difference_deep_in_a_layer_is_shown(tmp_path, monkeypatch):
    network = fuzz.started(MODES["CNN"].network(2, 16))
    card = modelfile.make_card(network, "CNN", CLASSES)

    def residual(channels):
        layers = body(channels)[0].body.layers[:-1]
        return [Residual(Sequential(*layers, BatchNorm(channels, epsilon=1e-3))), ReLU()]

    body = scene.models.residual
    monkeypatch.setattr(scene.models, "residual", residual)
    with pytest.raises(ModelFileError, match="its layer 8 is .*epsilon=1e-05.* has .*epsilon=0.001.* there"):
        round_trip(tmp_path, network, card)


# Classes


def short(value):
    """A name for a test of this value."""
    return f"{value!r:.20}"


def of_classes(names):
    """(network, card) of so many classes."""
    network = fuzz.started(FCNN(len(names), 8, hidden=(1,)))
    return network, card_of(network, names)


@pytest.mark.parametrize("names", [
    [f"class {k}" for k in range(10_000)],
    [chr(0x4e00 + k) * 40 for k in range(1000)],
    ['"', "'", "''", 'a"b', "it's", "{", "}]", ",", ":", "%s", "$HOME", "a;b", "<b>", "&amp;"],
    ["...", "-", "~", " ", "a.", "a ", "CON", "null", "classes", "__metadata__"],
    ["é", "e\u0301", "海", "😀", "Ø", "ß", "ss", "SS"],
    ["x" * 255, "海" * 85],
], ids=["10 000", "long", "quotes", "words", "Unicode", "longest"])
def test_names_of_classes_are_kept(names, folder):
    network, card = of_classes(names)
    modelfile.check(network, card)
    assert round_trip(folder, network, card)[1] == card


@pytest.mark.parametrize("name", [*fuzz.BAD_NAMES, "a\0b", "\ud800", "\udc80", 1, None], ids=short)
def test_a_name_that_is_no_path_component_is_refused_before_training(name):
    with pytest.raises(ModelFileError, match="class"):
        modelfile.check(NETWORK, card_of(NETWORK, ["sea", name]))


@pytest.mark.parametrize("name", fuzz.BAD_NAMES, ids=short)
def test_a_name_that_is_no_path_component_is_refused_under_a_true_sha256(name, data):
    def change(card, arrays):
        fuzz.write_classes(card, arrays, ["sea", name])

    for true in data, saved_as_format_1():
        with pytest.raises(ModelFileError, match="its list of classes is|cannot be the name of"):
            modelfile.load(fuzz.rewritten(true, change, signed=True))


@pytest.mark.parametrize("text", fuzz.BAD_BYTES, ids=short)
def test_bytes_that_are_no_list_of_names_are_refused_under_a_true_sha256(text, data):
    with pytest.raises(ModelFileError, match="its list of classes is|its layer 6 is|cannot be the name"):
        modelfile.load(with_tensors(data, {"classes": np.frombuffer(text, np.uint8)}))


@pytest.mark.parametrize("array", [
    np.int8, np.float32, lambda array: array.reshape(2, 5), lambda array: array[None],
    lambda array: array[:, None]], ids=["I8", "F32", "2x5", "1x10", "10x1"])
def test_names_of_another_type_or_shape_are_refused_under_a_true_sha256(array, data):
    true = np.frombuffer(b"sea\0meadow", np.uint8)
    with pytest.raises(ModelFileError, match="its list of classes is damaged"):
        modelfile.load(with_tensors(data, {"classes": array(true)}))


# Known before training: `check` refuses what `load` would not open


class Extended(FCNN):
    """An FCNN with one more argument, which it ignores."""

    def __init__(self, classes, image_size=8, hidden=(4,), dropout=0.3, extra=0):
        super().__init__(classes, image_size, hidden, dropout)


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def is_accepted(network, card):
    """Whether `check` accepts a network; if not, it says why in a sentence."""
    try:
        modelfile.check(network, card)
    except ModelFileError as error:
        assert str(error).isprintable() and len(str(error)) < 300
        return False
    return True


def is_opened(folder, network, card):
    """Whether the file that `save` writes is opened by `load`."""
    try:
        loaded, card_again = round_trip(folder, network, card)
    except ModelFileError:
        return False
    assert same_numbers(loaded, network) and fuzz.as_text(card_again) == fuzz.as_text(card)
    return True


@pytest.mark.parametrize("value", [
    0, 10_000, True, False, 0.5, -2.5, "word", "x" * 40, "海", [1], (1, 2), [100_000], [1] * 100], ids=repr)
def test_an_argument_that_a_model_file_can_hold(value, folder, monkeypatch):
    monkeypatch.setitem(MODES, "Extended", MODES["FCNN"]._replace(network=Extended))
    network = fuzz.started(Extended(2, extra=value))
    card = modelfile.make_card(network, "Extended", CLASSES)
    assert is_accepted(network, card) and is_opened(folder, network, card)


@pytest.mark.parametrize("value", [
    -1, 10_001, 10**30, 10**5000, float("nan"), float("inf"), 1j, np.int64(3), np.float32(1), None, print,
    object(), b"word", "x" * 41, "two\nlines", "\x1b[31m", "\ud800", {"a": 1}, {(1, 2): 3}, {1}, range(3),
    [], [0], [-1], [100_001], [1] * 101, [1.0], ["a"], [None], [[1]], nested(50), nested(5000),
], ids=lambda value: type(value).__name__)
def test_an_argument_that_a_model_file_cannot_hold(value, folder, monkeypatch):
    monkeypatch.setitem(MODES, "Extended", MODES["FCNN"]._replace(network=Extended))
    network = fuzz.started(Extended(2, extra=value))
    card = modelfile.make_card(network, "Extended", CLASSES)
    assert not is_accepted(network, card)
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return                                                          # `save` could not even write it
    assert not is_opened(folder, network, card)


@pytest.mark.parametrize("changes", [
    {"terms": None}, {"terms": 1}, {"terms": ["free"]}, {"started_from": None}, {"started_from": {}},
    {"started_from": {"sha256": ""}}, {"started_from": {"sha256": "", "terms": "", "x": ""}}, {"new": 1},
    {"mirror": 1}, {"mirror": None}, {"fit": "crop"}, {"fit": None}, {"layers": []}, {"layers": None},
    {"layers": "ReLU()"}, {"mode": "RNN"}, {"mode": None}, {"mode": []}, {"architecture": []},
    {"architecture": {"depth": 3}}, {"classes": ["sea"]}, {"classes": ["sea", "sea"]},
    {"classes": ["sea", "meadow", "road"]}, {"calibration": {"x": np.float32([np.nan])}},
    {"calibration": {"x": np.float64([1e300])}}], ids=str)
def test_a_card_that_would_not_be_read_again(changes, folder):
    card = card_of(NETWORK) | changes
    assert not is_accepted(NETWORK, card)
    assert not is_opened(folder, NETWORK, card)


def deep(depth):
    """(network, card) of so many layers more."""
    class Deep(FCNN):
        def __init__(self, classes, image_size, depth):
            self.image_size = image_size
            norms = [BatchNorm(3) for _ in range(depth)]
            Network.__init__(self, Normalize(), *norms, Flatten(), Linear(192, classes))

    MODES["Deep"] = MODES["FCNN"]._replace(network=Deep)
    network = fuzz.started(Deep(2, 8, depth))
    return network, modelfile.make_card(network, "Deep", CLASSES)


@pytest.mark.parametrize("make, most", [
    (deep, 4000),
    (lambda length: (NETWORK, card_of(NETWORK, terms="x" * length)), 1 << 20),
    (lambda length: (NETWORK, card_of(NETWORK, terms="海" * length)), 1 << 20),
    (lambda count: (NETWORK, card_of(NETWORK, calibration={str(i): [1] for i in range(count)})), 20_000),
    (lambda length: (NETWORK, card_of(NETWORK, calibration={"x" * length: [1]})), 1 << 20),
], ids=["layers", "terms", "Chinese terms", "calibration", "name"])
def test_the_largest_header_that_is_accepted_can_be_read(make, most, folder, monkeypatch):
    monkeypatch.setitem(MODES, "Deep", None)                            # is taken out again afterwards
    least = 1
    assert is_accepted(*make(least)) and not is_accepted(*make(most))
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if is_accepted(*make(middle)) else (least, middle)
    assert is_opened(folder, *make(least))


ODD = st.sampled_from([None, True, False, 0, 1, -1, 0.5, "", "x", "\n", [], (), [[1]], {}, 10**20, 1e400])
SIZES = st.integers(6, 20)
WIDTHS = st.lists(st.integers(1, 5), max_size=4) | st.lists(st.integers(1, 5), max_size=4).map(tuple)
ARCHITECTURES = st.tuples(st.just("FCNN"), st.fixed_dictionaries({
    "image_size": SIZES | ODD,
    "hidden": WIDTHS | ODD | st.lists(ODD, max_size=3),
    "dropout": st.floats(0, 1) | st.integers(0, 1) | ODD,
})) | st.tuples(st.just("CNN"), st.fixed_dictionaries({
    "image_size": SIZES | ODD,
    "widths": WIDTHS | ODD | st.lists(ODD, max_size=3),
}))


@given(ARCHITECTURES)
@settings(max_examples=500)
def test_what_is_accepted_before_training_is_what_can_be_opened(folder, kind):
    mode, arguments = kind
    try:
        network = fuzz.started(MODES[mode].network(2, **arguments))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError):
        return                                                          # there is no such network
    card = modelfile.make_card(network, mode, CLASSES)
    assert is_accepted(network, card) == is_opened(folder, network, card)


@pytest.mark.parametrize("path", PRETRAINED.values(), ids=PRETRAINED)
def test_the_pretrained_networks_would_be_accepted(path):
    modelfile.check(*modelfile.load(Path(path).read_bytes()))


# Format 1


@pytest.mark.parametrize("mode, arguments", [
    ("FCNN", {"hidden": [6, 4], "dropout": 0}),
    ("CNN", {"widths": [4, 6, 8]}),
])
def test_a_file_of_format_1_is_opened(mode, arguments):
    network = fuzz.started(format1.NETWORKS[mode](3, image_size=16, **arguments))
    card = modelfile.make_card(network, mode, ["海", "a b", "ø"])
    loaded, card_again = modelfile.load(saved_as_format_1(network, card))
    assert same_numbers(loaded, network) and card_again == card


def test_files_of_format_1_are_those_of_scene_1_4():
    """The SHA-256 in the file that Scene 1.4 wrote for these numbers."""
    network = FCNN(2, 8, hidden=(4,))
    count = itertools.count()
    params, state = (np.float32([next(count) % 97 / 64 for _ in range(size)])
                     for size in (network.size, network.state_size))
    network.place(params, state)
    scene = json.loads(split(saved_as_format_1(network))[0]["__metadata__"]["scene"])
    assert scene["sha256"] == "744ad60a2f4162ff3df6f825cda903375c37038a8396af1767ea6669279efe67"


@pytest.mark.parametrize("mode, side, answer", [
    ("FCNN", 8, [0.735605, 0.101063, 0.163332]), ("CNN", 16, [0.411988, 0.310941, 0.277071]),
])
def test_a_real_file_of_format_1_is_opened(mode, side, answer):
    """tests/format1/ holds two small models that Scene 1.4 wrote, with random weights, and its answers."""
    data = Path(__file__).with_name("format1").joinpath(f"model_{mode}").read_bytes()
    told = fuzz.scene_of(split(data)[0])
    network, card = modelfile.load(data)
    assert told["format"] == 1 and {name: card[name] for name in told["card"]} == told["card"]
    assert card["layers"] == list(map(repr, MODES[mode].network(3, **card["architecture"]).layers))
    assert saved_as_format_1(network, card) == data
    pixels = (np.arange(side * side * 3) * 37 % 256).astype(np.uint8).reshape(1, side, side, 3)
    np.testing.assert_allclose(Classifier(network, card).probabilities(pixels), [answer], atol=2e-6)


def test_format_1_has_only_networks_of_scene_1_4(monkeypatch):
    monkeypatch.setitem(MODES, "RNN", MODES["FCNN"])
    with pytest.raises(ModelFileError, match="format 1 has no network of kind 'RNN'"):
        modelfile.load(edited(saved_as_format_1(), mode="RNN"))


@pytest.mark.parametrize("name", ["calibration.shift", "classes", "more"])
def test_format_1_has_no_tensors_beside_those_of_its_network(name):
    array = np.uint8([115, 0, 109]) if name == "classes" else np.float32([1])
    with pytest.raises(ModelFileError, match="its weights are not those of its architecture"):
        modelfile.load(with_tensors(saved_as_format_1(), {name: array}))


# Memory


LOAD_IN = """
import resource, sys
from scene.answer import modelfile

data = open(sys.argv[1], "rb").read()
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    print("loaded", modelfile.load(data)[0].size)
except modelfile.ModelFileError as error:
    print(error)
"""


def load_in(memory, path):
    """The result of loading the file in a process that may take so many bytes more than the file itself."""
    command = [sys.executable, "-c", LOAD_IN, path, str(memory)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's memory limits")
def test_a_model_takes_two_copies_of_its_parameters_and_a_liar_no_more(tmp_path):
    network = FCNN(2, 64, hidden=(512,)).start(torch.Generator())
    data = saved(tmp_path, network)
    copy = 4 * network.size                                             # 25 MB
    spare = 4_000_000
    assert load_in(2 * copy + spare, tmp_path / "model").stdout == f"loaded {network.size}\n"
    assert "MemoryError" in load_in(copy + spare, tmp_path / "model").stderr        # the limit is one

    huge = {"image_size": 1024, "hidden": [100_000] * 100, "dropout": 0.2}
    layers = [repr(layer) for layer in FCNN(2, **huge).layers]
    header, weights = split(data)
    header["2.w"]["shape"] = [2**40, 2**20]
    names = np.frombuffer("\0".join(map(str, range(3_000_000))).encode(), np.uint8)
    not_those = "its weights are not those of its architecture\n"
    for lie, message in [
        (edited(data, architecture=huge, layers=layers), not_those),
        (edited(saved_as_format_1(network), architecture=huge), not_those),
        (join(header, weights), "its weights are damaged\n"),
        (with_tensors(data, {"classes": names}, signed=False), "its list of classes is damaged\n"),
        (join(b"[" * modelfile.MOST_HEADER, weights), "it is not a model file\n"),
        (join(b"[" + b"[[[]]]," * (modelfile.MOST_HEADER // 8) + b"0]", b""), "it is not a model file\n"),
        (struct.pack("<Q", 2**63) + data[8:], "it is not a model file\n"),
    ]:
        (tmp_path / "lie").write_bytes(lie)
        assert load_in(2 * copy + spare, tmp_path / "lie").stdout == message


# Strangers


@pytest.mark.parametrize("number", [1, 2])
@given(st.sampled_from(fuzz.DAMAGES), st.integers(0, 2**32))
@settings(max_examples=1500)
def test_a_damaged_file_is_refused(data, number, damage, seed):
    """A share of `python -m tests.bench.soak modelfiles`."""
    true = saved_as_format_1() if number == 1 else data
    broken = damage(true, Random(seed))
    assert fuzz.is_refused(broken) or damage in fuzz.HARMLESS or broken == true


def test_a_true_file_is_not_refused(data):
    assert not fuzz.is_refused(data) and not fuzz.is_refused(saved_as_format_1())


class Temperature(Layer):
    """y = x w, with a single number w: a parameter without dimensions."""

    def __init__(self):
        self.parameters = {"w": Parameter((), mean=1.0)}

    def forward(self, x, training=False):
        return x * self.w


class Scaled(Network):
    def __init__(self, classes, image_size=8):
        self.image_size = image_size
        super().__init__(Normalize(), Flatten(), Temperature(), Linear(3 * image_size ** 2, classes))


def test_numbers_without_dimensions_are_saved_and_opened(tmp_path, monkeypatch):
    """A learned scalar, and a temperature as calibration."""
    monkeypatch.setitem(MODES, "SCALED", MODES["FCNN"]._replace(network=Scaled))
    network = Scaled(2).start(torch.Generator().manual_seed(0))
    calibration = {"temperature": np.float32(1.5)}
    card = modelfile.make_card(network, "SCALED", ["sea", "meadow"], calibration=calibration)
    modelfile.check(network, card)
    modelfile.save(tmp_path / "model", network, card)
    opened, again = modelfile.load((tmp_path / "model").read_bytes())
    assert opened.arrays()["2.w"] == network.arrays()["2.w"].numpy() and opened.arrays()["2.w"].shape == ()
    assert again["calibration"]["temperature"].shape == () and again["calibration"]["temperature"] == 1.5


def test_terms_that_a_terminal_would_obey_are_refused(data):
    card = card_of(NETWORK, terms="free\x1b[2J")
    for told in card, card_of(NETWORK, started_from={"sha256": "", "terms": "\ud800"}):
        with pytest.raises(ModelFileError, match="^its terms hold characters that cannot be shown$"):
            modelfile.check(NETWORK, told)
