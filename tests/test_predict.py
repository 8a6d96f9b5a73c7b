import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scene import modelfile, photo
from scene.models import FCNN
from scene.nn.loss import softmax
from scene.predict import Classifier

CLASSES = ["sea", "meadow", "road"]


def card(network, mirror=True):
    return {"mode": "FCNN", "classes": CLASSES, "architecture": network.architecture, "fit": "stretch", "mirror": mirror}


@pytest.fixture
def network():
    return FCNN(3, 16).start(torch.Generator().manual_seed(0))


@pytest.fixture
def model(network, tmp_path):
    modelfile.save(tmp_path / "model_FCNN", network, card(network))
    return tmp_path / "model_FCNN"


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(n):
    return np.random.default_rng(1).integers(256, size=(n, 16, 16, 3), dtype=np.uint8)


def test_probabilities_are_those_of_photo_and_mirror_image(network):
    x = pixels(300)                                         # more than one batch
    t = torch.from_numpy(x)
    z = (network.forward(t) + network.forward(t.flip(2))) / 2
    p = Classifier(network, card(network)).probabilities(x)
    assert p.dtype == np.float32 and p.shape == (300, 3)
    np.testing.assert_allclose(p, softmax(z).numpy(), atol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    alone = Classifier(network, card(network, mirror=False)).probabilities(x)
    np.testing.assert_allclose(alone, softmax(network.forward(t)).numpy(), atol=1e-6)


def test_numpy_and_torch_agree(model):
    x = pixels(5)
    network, its_card = modelfile.load(model.read_bytes())
    network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
    np.testing.assert_allclose(Classifier.open(model).probabilities(x), Classifier(network, its_card).probabilities(x), atol=1e-5)


def test_classify_is_decode_and_probabilities(model):
    classifier = Classifier.open(model)
    answer = classifier.classify(picture())
    p = classifier.probabilities(photo.decode(picture(), 16)[None])[0]
    assert answer == {CLASSES[k]: float(p[k]) for k in range(3)}
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def predict(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", "scene.predict", *map(str, arguments)], capture_output=True, text=True, cwd=cwd)


def test_command_prints_every_class_for_every_photo(model, tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(picture())
    result = predict(tmp_path / "one.png", tmp_path / "two.png", "--model", model)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    answer = Classifier.open(model).classify(picture())
    scene = next(iter(answer))
    assert len(lines) == 8
    assert lines[0] == f"{tmp_path}/one.png: {scene}" and lines[4] == f"{tmp_path}/two.png: {scene}"
    assert [line.split()[1] for line in lines[1:4]] == list(answer)
    assert lines[1] == f"  {answer[scene]:7.2%}  {scene}"


def test_command_prints_json(model, tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
    result = predict(tmp_path / "one.png", tmp_path / "none.png", "--model", model, "--json")
    answer = Classifier.open(model).classify(picture())
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {"photo": str(tmp_path / "one.png"), "scene": next(iter(answer)), "probabilities": pytest.approx(answer, abs=1e-6)}
    assert second == {"photo": str(tmp_path / "none.png"), "error": "cannot be read: No such file or directory"}
    assert result.returncode == 2


def test_a_bad_photo_is_a_sentence_and_the_others_are_answered(model, tmp_path):
    (tmp_path / "bad.jpg").write_text("<html>")
    (tmp_path / "good.png").write_bytes(picture())
    result = predict(tmp_path / "bad.jpg", tmp_path / "good.png", tmp_path / "none.png", "--model", model)
    assert result.returncode == 2
    assert result.stdout.startswith(f"{tmp_path}/good.png: ")
    assert result.stderr.splitlines() == [
        f"{tmp_path}/bad.jpg: not a JPEG, PNG or WebP photo but a web page.",
        f"{tmp_path}/none.png: cannot be read: No such file or directory."]


@pytest.mark.parametrize("content, message", [
    (None, "No such file or directory."),
    (b"no model", "is not a usable model: it is not a model file."),
])
def test_a_bad_model_is_a_sentence(content, message, tmp_path):
    path = tmp_path / "model"
    if content:
        path.write_bytes(content)
    result = predict("photo.jpg", "--model", path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr in (f"{path}: {message}\n", f"{path} {message}\n")
