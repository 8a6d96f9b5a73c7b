import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene import modelfile
from scene.modelfile import ModelFileError
from scene.models import CNN, FCNN

NETWORK = FCNN(2, 8, hidden=(4,)).start(torch.Generator().manual_seed(0))


def card_of(network, classes=("sea", "meadow")):
    return {"mode": network.mode, "classes": list(classes), "architecture": network.architecture, "fit": "stretch", "mirror": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model_FCNN"
    modelfile.save(path, NETWORK, card_of(NETWORK))
    return path.read_bytes()


def split(data):
    """The header as a dictionary, and the weights."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def join(header, weights):
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


@pytest.mark.parametrize("network", [NETWORK, CNN(3, 32).start(torch.Generator().manual_seed(1))], ids=["FCNN", "CNN"])
def test_what_is_saved_is_loaded_with_the_same_logits(network, tmp_path):
    card = card_of(network, ["海", "a b", "ø"][:len(network.layers[-1].b)])
    modelfile.save(tmp_path / "model", network, card)
    loaded, card_again = modelfile.load((tmp_path / "model").read_bytes())
    assert card_again == card
    for name, array in network.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array.numpy())
    pixels = np.random.default_rng(0).integers(256, size=(2, network.image_size, network.image_size, 3), dtype=np.uint8)
    z = network.forward(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(loaded.forward(pixels), z, atol=1e-4)
    loaded.place(torch.from_numpy(loaded.params), torch.from_numpy(loaded.state))
    np.testing.assert_array_equal(loaded.forward(torch.from_numpy(pixels)).numpy(), z)


def test_the_same_model_is_the_same_bytes(data, tmp_path):
    for name in "ab":
        modelfile.save(tmp_path / name, NETWORK, dict(reversed(card_of(NETWORK).items())))
        assert (tmp_path / name).read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]       # and no temporary file remains


def test_a_failing_write_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(b"older")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        modelfile.save(tmp_path / "model", NETWORK, card_of(NETWORK))
    assert caught.value.filename == str(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (tmp_path / "model").read_bytes() == b"older"


def test_arrays_that_are_not_contiguous_are_saved_right(tmp_path):
    class Transposed:
        def __init__(self, network):
            self.network = network

        def arrays(self):
            return {name: array.movedim(0, -1).contiguous().movedim(-1, 0) for name, array in self.network.arrays().items()}

    modelfile.save(tmp_path / "model", Transposed(NETWORK), card_of(NETWORK))
    loaded, _ = modelfile.load((tmp_path / "model").read_bytes())
    np.testing.assert_array_equal(loaded.params, NETWORK.params.numpy())


@given(draw=st.data())
@settings(max_examples=500)
def test_any_flipped_bit_and_any_truncation_is_refused(data, draw):
    place = draw.draw(st.integers(0, len(data) - 1))
    flipped = bytearray(data)
    flipped[place] ^= 1 << draw.draw(st.integers(0, 7))
    for broken in (bytes(flipped), data[:place]):
        try:
            network, card = modelfile.load(broken)
        except ModelFileError:
            continue
        assert broken != data[:place]
        np.testing.assert_array_equal(network.params, NETWORK.params.numpy())       # a bit that says nothing, of a space say
        assert card == card_of(NETWORK)


def test_one_bit_of_a_weight_is_noticed(data):
    broken = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ModelFileError, match="do not match its SHA-256"):
        modelfile.load(broken)


@pytest.mark.parametrize("changes, message", [
    ({"format": 2}, "its format is number 2; this version of Scene reads number 1"),
    ({"mode": "RNN"}, "it needs a network of kind 'RNN'"),
    ({"fit": "crop"}, "photos made to fit by 'crop'"),
    ({"classes": ["sea"]}, "its list of classes is damaged"),
    ({"classes": ["sea", "sea"]}, "its list of classes is damaged"),
    ({"classes": ["sea", 1]}, "its list of classes is damaged"),
    ({"classes": ["sea", "meadow", "road"]}, "its weights are not those that its architecture asks for"),
    ({"classes": ["sea", "forest"]}, "do not match its SHA-256"),
    ({"mirror": False}, "do not match its SHA-256"),
    ({"mirror": 1}, "its card is incomplete"),
    ({"architecture": {"image_size": 8, "hidden": [5], "dropout": 0.3}}, "its weights are not those"),
    ({"classes": ["sea", "\x1b[31m"]}, "its list of classes is damaged"),
    ({"mode": "\x1b[31m"}, r"it needs a network of kind '\\x1b\[31m'"),
    ({"architecture": {"image_size": 0, "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": -8, "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8.0, "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": None, "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8, "hidden": [0], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8, "hidden": [4.0], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8, "hidden": [], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8, "hidden": [4], "dropout": 1.0}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 9, "hidden": [4], "dropout": 0.3}}, "its weights are not those"),
    ({"architecture": {"image_size": 10**30, "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": "8", "hidden": [4], "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"image_size": 8, "hidden": 4, "dropout": 0.3}}, "its architecture is damaged"),
    ({"architecture": {"depth": 3}}, "its architecture is damaged"),
    ({"sha256": "0" * 64}, "do not match its SHA-256"),
])
def test_edited_metadata_is_refused(data, changes, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(edited(data, **changes))


@pytest.mark.parametrize("text, message", [
    (b"", "it is not a model file"),
    (b"PK\3\4 a pickle in a zip", "it is not a model file"),
    (join(b"[]", b""), "it is not a model file"),
    (join(b"{}", b""), "not one of Scene's"),
    (join(b'{"__metadata__": {"format": "pt"}}', b""), "not one of Scene's"),
    (join(b'{"__metadata__": {"scene": "[1]"}}', b""), "it is not a model file"),
    (join(b'{"a": 1, "a": 2}', b""), "its header names something twice"),
    (join(b'{"__metadata__": {"scene": "{\\"format\\": 1, \\"format\\": 1}"}}', b""), "its metadata names something twice"),
    (join(b"[" * 100_000, b""), "it is not a model file"),
])
def test_other_files_are_refused(text, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(text)


def test_a_name_twice_among_the_weights_is_refused(data):
    header, weights = split(data)
    text = json.dumps(header).replace('"0.std"', '"0.mean"')
    with pytest.raises(ModelFileError, match="its header names something twice"):
        modelfile.load(join(text.encode(), weights))
