"""scene/modelfile.py: what is saved is loaded, and no other bytes are, whatever they claim."""

import json
import struct
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene import modelfile
from scene.modelfile import ModelFileError
from scene.models import CNN, FCNN
from tests.fuzz import DAMAGES, HARMLESS, edited, join, split


def started(network):
    """The network with random numbers everywhere, so that no two arrays are alike, and such as half precision holds."""
    generator = torch.Generator().manual_seed(0)
    network.start(generator)
    for vector in network.params, network.state:
        vector.add_(torch.randn(vector.shape, generator=generator), alpha=0.01).copy_(vector.half())
    return network


NETWORK = started(FCNN(2, 8, hidden=(4,)))


def card_of(network, classes=("sea", "meadow")):
    return {"mode": network.mode, "classes": list(classes), "architecture": network.architecture, "fit": "stretch", "mirror": True}


def saved(folder, network=NETWORK):
    """The bytes of the network's model file."""
    modelfile.save(folder / "model", network, card_of(network))
    return (folder / "model").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("network", [NETWORK, started(CNN(3, 32))], ids=["FCNN", "CNN"])
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


def test_weights_are_halves_where_they_fit_and_the_rest_is_single(tmp_path):
    network = started(FCNN(2, 8, hidden=(4,)))
    network.layers[2].w[0, 0], network.layers[2].b[0], network.layers[6].w[0, 0] = 0.1, 0.1, 1e5
    loaded, _ = modelfile.load(saved(tmp_path, network))
    assert loaded.layers[2].w[0, 0] == np.float16(0.1) and loaded.layers[2].b[0] == np.float32(0.1)
    assert loaded.layers[6].w[0, 0] == 1e5, "too large for a half"


def test_arrays_that_are_not_contiguous_are_saved_right(tmp_path):
    class Transposed:
        parameter_slots = NETWORK.parameter_slots

        def arrays(self):
            return {name: array.movedim(0, -1).contiguous().movedim(-1, 0) for name, array in NETWORK.arrays().items()}

    modelfile.save(tmp_path / "model", Transposed(), card_of(NETWORK))
    loaded, _ = modelfile.load((tmp_path / "model").read_bytes())
    np.testing.assert_array_equal(loaded.params, NETWORK.params.numpy())


def test_one_bit_of_a_weight_is_noticed(data):
    broken = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ModelFileError, match="do not match its SHA-256"):
        modelfile.load(broken)


@pytest.mark.parametrize("changes, message", [
    ({"format": 2}, "its format is number 2; this version of Scene reads number 1"),
    ({"format": -1}, "its format is number -1; this version of Scene reads number 1"),
    ({"format": 10**4000}, "its format is number 10000000000000000000; this"),
    ({"format": True}, "its format has no number"),
    ({"format": "1"}, "its format has no number"),
    ({"mode": "RNN"}, "it needs a network of kind 'RNN'"),
    ({"mode": "R" * 100}, f"it needs a network of kind '{'R' * 39} on"),
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
    ({"architecture": {"image_size": 8, "hidden": [4], "dropout": float("nan")}}, "its architecture is damaged"),
    ({"architecture": {"depth": 3}}, "its architecture is damaged"),
    ({"mode": "CNN", "architecture": {"image_size": 0.5}}, "its architecture is damaged"),
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
    (join(b"{}" + b" " * modelfile.MOST_HEADER, b""), "it is not a model file"),
])
def test_other_files_are_refused(text, message):
    with pytest.raises(ModelFileError, match=message):
        modelfile.load(text)


def test_a_name_twice_among_the_weights_is_refused(data):
    header, weights = split(data)
    text = json.dumps(header).replace('"0.std"', '"0.mean"')
    with pytest.raises(ModelFileError, match="its header names something twice"):
        modelfile.load(join(text.encode(), weights))


def test_a_network_without_dropout_is_loaded(tmp_path):
    network = FCNN(2, 8, hidden=(4,), dropout=0).start(torch.Generator())
    assert modelfile.load(saved(tmp_path, network))[1]["architecture"]["dropout"] == 0


# Memory


LOAD_IN = """
import resource, sys
from scene import modelfile

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
    """What loading the file ends with in a process that may take so many bytes more, its contents being read already."""
    return subprocess.run([sys.executable, "-c", LOAD_IN, path, str(memory)], capture_output=True, text=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limits of memory")
def test_a_model_takes_two_copies_of_its_parameters_and_a_liar_no_more(tmp_path):
    network = FCNN(2, 64, hidden=(512,)).start(torch.Generator())
    data, copy, spare = saved(tmp_path, network), 4 * network.size, 4_000_000       # copy: 25 MB
    assert load_in(2 * copy + spare, tmp_path / "model").stdout == f"loaded {network.size}\n"
    assert "MemoryError" in load_in(copy + spare, tmp_path / "model").stderr        # the limit is one

    huge = {"image_size": 1024, "hidden": [100_000] * 100, "dropout": 0.2}
    header, weights = split(data)
    header["2.w"]["shape"] = [2**40, 2**20]
    for lie, message in [
        (edited(data, architecture=huge), "its weights are not those that its architecture asks for\n"),
        (join(header, weights), "its weights are damaged\n"),
        (join(b"[" * modelfile.MOST_HEADER, weights), "it is not a model file\n"),
        (join(b"[" + b"[[[]]]," * (modelfile.MOST_HEADER // 8) + b"0]", b""), "it is not a model file\n"),
        (struct.pack("<Q", 2**63) + data[8:], "it is not a model file\n"),
    ]:
        (tmp_path / "lie").write_bytes(lie)
        assert load_in(2 * copy + spare, tmp_path / "lie").stdout == message


# Strangers


def is_refused(broken):
    """Whether a damaged file is refused; if not, it must hold the true weights and card all the same."""
    try:
        network, card = modelfile.load(broken)
    except ModelFileError as error:
        assert str(error).isprintable() and len(str(error)) < 200
        return True
    assert card == card_of(NETWORK)
    assert network.params.tobytes() == NETWORK.params.numpy().tobytes() and network.state.tobytes() == NETWORK.state.numpy().tobytes()
    return False


@given(st.sampled_from(DAMAGES), st.integers(0, 2**32))
@settings(max_examples=1500)
def test_a_damaged_file_is_refused(data, damage, seed):
    """A share of `python -m tests.bench.soak modelfiles`."""
    broken = damage(data, Random(seed))
    assert is_refused(broken) or damage in HARMLESS or broken == data
