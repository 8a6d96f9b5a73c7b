"""scene/show/layers.py, inside.py, bugs.py and lab.py: what the page says of a network is true of it."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene.answer import endpoint, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.gradient_map import NeedsTorch
from scene.models import CNN, FCNN, MODES
from scene.nn.arrays import adopt
from scene.nn.fold import fold
from scene.nn.layer import Network, Residual, Sequential
from scene.nn.linear import Linear
from scene.photos.decode import decode
from scene.show import bugs, inside, lab, layers
from tests.asking import CLASSES, OCEAN, body, model_file, small_network

PIXELS = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def classifiers():
    """{mode: Classifier} of untrained networks, narrow ones."""
    narrow = {"FCNN": FCNN(3, 16, (6, 5)), "CNN": CNN(3, 16, (4, 5, 6))}
    return {mode: Classifier(network.start(torch.Generator().manual_seed(0)),
                             modelfile.make_card(network, mode, CLASSES)) for mode, network in narrow.items()}


# What goes through the layers


@modes
def test_each_layer_is_seen_in_the_order_of_forward(mode, classifiers):
    network = fold(classifiers[mode].network)
    passages = layers.watch(network.layers)
    z = network.forward(adopt(PIXELS[None], network.params))
    assert passages[-1].y is z and passages[0].x.shape == (1, 16, 16, 3)
    names = [each.name for each in passages if "." not in each.name]
    assert names == [str(i) for i in range(len(network.layers))]
    simple = [layer for _, layer in network.walk()]
    assert [each.layer for each in passages if not isinstance(each.layer, Residual)] == simple
    for before, after in zip(passages, passages[1:], strict=False):
        if before.name.count(".") == after.name.count(".") and not isinstance(after.layer, Residual):
            assert after.x is before.y
    assert all(each.dy is None for each in passages)


def test_a_shortcut_and_nested_sequences_are_seen():
    inner = Sequential(Linear(2, 2), Sequential(Linear(2, 2)))
    network = Network(Residual(inner, Linear(2, 2)), Linear(2, 1)).start(torch.Generator().manual_seed(0))
    passages = layers.watch(network.layers)
    network.layers[1].needs_dx = True
    y = network.forward(torch.ones(1, 2), training=True)
    network.backward(torch.ones_like(y))
    assert [each.name for each in passages] == ["0.body.0", "0.body.1.0", "0.shortcut", "0", "1"]
    assert torch.equal(passages[3].y, passages[1].y + passages[2].y)
    assert passages[3].dy is passages[4].dx and passages[1].dy is passages[2].dy is passages[3].dy


@modes
def test_what_a_layer_says_of_itself_is_in_its_source(mode, classifiers):
    for stage in inside.look(classifiers[mode], PIXELS):
        code, = stage["code"]
        with open(os.path.join(layers.ROOT, code["file"]), encoding="utf-8") as file:
            lines = file.read().splitlines()[code["line"] - 1:]
        shown = code["text"].splitlines()
        assert shown[0].startswith("def forward(self, x, training=False):")
        assert [line.strip() for line in shown] == [line.strip() for line in lines[:len(shown)]]
        assert stage["formula"] and ">>>" not in stage["formula"]
        assert stage["count"] == sum(np.prod(shape) for shape in stage["parameters"].values())


# Pictures


def test_a_picture_has_a_pixel_for_each_number_and_a_colour_for_its_sign():
    values = np.array([[0, 1, -1], [0.5, -0.5, 9]], np.float32)
    url = inside.picture(values, 1.0)
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    red, _, blue = np.moveaxis(np.asarray(image).astype(int), 2, 0)
    assert image.size == (3, 2) and max(image.getpixel((0, 0))) < 40        # 0 is dark
    assert red[1, 0] > blue[1, 0] + 50 and blue[1, 1] > red[1, 1] + 50      # orange above, blue below
    assert image.getpixel((1, 0)) == image.getpixel((2, 1)) and min(image.getpixel((1, 0))) > 200


def test_pictures_of_odd_numbers():
    """Of nothing but zeros, of NaN, and of vectors of any length."""
    for x in np.zeros((1, 4, 4, 2)), np.full((1, 4, 4, 2), np.nan), *(np.ones((1, n)) for n in range(1, 20)):
        with np.errstate(all="ignore"):
            assert inside.pictures(x, 5)["shown"]


# A training step


@modes
def test_a_step_is_that_of_the_library(mode, classifiers):
    """Backward is the same numbers as in a network that nobody watches, stage by stage."""
    model = classifiers[mode]
    found = inside.train(model, PIXELS, 1)
    network, _ = inside.on_torch(model)
    z = network.forward(torch.from_numpy(PIXELS[None]), training=True)
    dz = z.softmax(1) - torch.tensor([[0., 1., 0.]])
    assert found["loss"] == pytest.approx(-float(z.log_softmax(1)[0, 1]), rel=1e-5)
    network.backward(dz)
    kinds = [stage["kind"] for stage in found["stages"]]
    assert kinds == sorted(kinds, key=["forward", "loss", "backward", "step"].index)
    backward = [stage for stage in found["stages"] if stage["kind"] == "backward"]
    forward = [stage for stage in found["stages"] if stage["kind"] == "forward"]
    assert [stage["place"] for stage in backward] == [stage["place"] for stage in forward][::-1]
    assert backward[0]["numbers"]["‖dy‖"] == pytest.approx(float(dz.norm()), rel=1e-4)
    gradients = {slot.name: getattr(slot.layer, f"d{slot.attribute}") for slot in network.parameter_slots}
    seen = {f"{stage['place']}.{name[2:-1]}": number for stage in backward
            for name, number in stage["numbers"].items() if name not in ("‖dy‖", "‖dx‖")}
    assert seen == pytest.approx({name: float(array.norm()) for name, array in gradients.items()}, rel=1e-3)

    rows = found["stages"][-1]["rates"]
    assert rows[0]["loss"] == pytest.approx(found["loss"], rel=1e-5) and rows[0]["rate"] == 0
    for row in rows[1:]:                # by hand: θ - η g
        moved = fold(network)
        moved.params -= row["rate"] * network.grads
        z = moved.forward(torch.from_numpy(PIXELS[None]))
        assert row["loss"] == pytest.approx(-float(z.log_softmax(1)[0, 1]), rel=1e-4, abs=1e-6)


def test_a_step_without_torch_is_a_sentence(classifiers, monkeypatch):
    assert inside.look(classifiers["CNN"], PIXELS)
    monkeypatch.setitem(sys.modules, "torch", None)
    for work in inside.train, bugs.check:
        with pytest.raises(NeedsTorch, match="needs torch, which is not installed here: install it"):
            work(classifiers["CNN"], PIXELS, 0)


# Bugs


@modes
def test_all_gradients_are_right_and_each_bug_is_found(mode, classifiers):
    """It turns red from where it is planted, down to the photo if dx is wrong."""
    model = classifiers[mode]
    sound = bugs.check(model, PIXELS, 1)
    assert all(row["right"] for row in sound["rows"]) and sound["planted"] is None
    assert all(row["difference"] < 1e-5 for row in sound["rows"]), "far below what counts as wrong"
    names = [row["name"] for row in sound["rows"]]
    assert sorted(names) == sorted([*(slot.name for slot in fold(model.network).parameter_slots), "x"])
    assert set(sound["bugs"]) == {name for name in bugs.BUGS if mode == "CNN" or name in (
        "relu-mask", "linear-sign", "linear-bias", "loss-target")}
    for name in sound["bugs"]:
        found = bugs.check(model, PIXELS, 1, name)
        red = [not row["right"] for row in found["rows"]]
        assert any(red), name
        assert found["planted"]["wrong"]["text"].startswith("def ") and found["planted"]["right"]["text"]
        if name in ("linear-sign", "linear-bias"):
            assert sum(red) == 1
        else:
            assert red == sorted(red), f"{name}: all that comes after it in backward is wrong"


# The child process


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model_FCNN"
    model_file(small_network("FCNN"), "FCNN", path)
    laboratory = lab.Lab({"FCNN": str(path)})
    yield laboratory
    laboratory.close()


def test_the_child_answers_and_refuses_as_the_endpoint_does(laboratory):
    status, answer, entry = laboratory.answer("/inside", body("fcnn"), "7")
    assert (status, answer["requestId"], entry["code"]) == (200, "7", None) and answer["stages"]
    first = laboratory.child.pid
    refused = {
        b"{": "not_json", b"[]": "unknown_field", body("CNN"): "model_missing", body("RNN"): "bad_mode",
        body("FCNN", b"hello"): "not_a_photo", body("FCNN", OCEAN[:999]): "damaged_photo",
        body("FCNN", map=True): "unknown_field", body("FCNN", **{"class": "sea"}): "unknown_field"}
    for data, code in refused.items():
        status, answer, entry = laboratory.answer("/inside", data, "8")
        assert (status, answer["error"]["code"], entry["code"]) == (endpoint.STATUS[code], code, code)
    for more in {"class": "moon"}, {"class": "sea", "bug": "conv-factor"}, {}:
        assert laboratory.answer("/check", body("FCNN", **more), "9")[1]["error"]["code"] == "unknown_field"
    assert laboratory.child.pid == first, "one child for all"


@pytest.mark.parametrize("seconds", [0.2, 30])
def test_a_child_that_takes_too_long_or_dies_is_replaced(seconds, laboratory, monkeypatch):
    laboratory.answer("/inside", b"{", "1")             # there is a child
    pid = laboratory.child.pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(lab, "SECONDS", seconds)
    if seconds == 30:
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    status, answer, _ = laboratory.answer("/inside", body("FCNN"), "2")
    assert (status, answer["error"]["code"]) == (503, "too_much_work")
    monkeypatch.setattr(lab, "SECONDS", 30)
    assert laboratory.answer("/inside", body("FCNN"), "3")[0] == 200 and laboratory.child.pid != pid


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of data")
def test_the_child_has_a_limit_of_memory():
    program = "from scene.show import lab; lab.limit_memory(); " \
        "bytearray(900_000_000); bytearray(1_000_000_000)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().endswith("MemoryError")
    assert lab.fail(MemoryError())["refused"][0] == "too_much_work"


def test_a_failure_is_logged_and_not_shown(laboratory, monkeypatch):
    found = json.dumps(lab.fail(RuntimeError("secret")))
    monkeypatch.setattr(laboratory, "ask", lambda task, body: found)
    status, answer, entry = laboratory.answer("/step", b"", "1")
    assert (status, answer["error"]["code"]) == (500, "internal_error") and "secret" not in json.dumps(answer)
    assert entry["error"]["message"] == "secret"


def test_the_right_gradients_agree_where_pixels_are_equal():
    """Flat places tie in MaxPool, and pixels that move far take some ReLU across its corner."""
    model = Classifier.open(PRETRAINED["CNN"])
    photo = Path(__file__).parents[1] / "datasets/test/road/road_003.jpg"
    flat = np.full((model.image_size, model.image_size, 3), 128, np.uint8)
    for pixels in decode(photo.read_bytes(), model.image_size), flat:
        assert [row["name"] for row in bugs.check(model, pixels, 0)["rows"] if not row["right"]] == []
