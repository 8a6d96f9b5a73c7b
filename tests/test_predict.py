"""scene/answer/classifier.py and the command that asks it, scene/predict.py."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from scene.answer import modelfile
from scene.answer.calibration import NEVER
from scene.answer.classifier import BATCH_PIXELS, Classifier
from scene.models import MODES
from scene.nn.loss import softmax
from scene.photos.decode import decode
from tests.asking import CLASSES, calibrated, model_file, small_network

every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model_FCNN"
    model_file(small_network("FCNN"), "FCNN", path)
    return path


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(n):
    return np.random.default_rng(1).integers(256, size=(n, 16, 16, 3), dtype=np.uint8)


@every_mode
def test_probabilities_are_those_of_photo_and_mirror_image(mode):
    network = small_network(mode)
    network.place(network.params.double(), network.state.double())
    card = modelfile.make_card(network, mode, CLASSES)
    x = pixels(BATCH_PIXELS // 16 ** 2 + 50)                # more than one batch
    t = torch.from_numpy(x)
    z = (network.forward(t) + network.forward(t.flip(2))) / 2
    p = Classifier(network, card).probabilities(x)
    assert p.shape == (len(x), 3)
    np.testing.assert_allclose(p, softmax(z).numpy(), rtol=1e-10)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-10)
    alone = Classifier(network, card | {"mirror": False}).probabilities(x)
    np.testing.assert_allclose(alone, softmax(network.forward(t)).numpy(), rtol=1e-10)


@every_mode
def test_scores_are_features_times_the_last_layers_weights(mode):
    network = small_network(mode)
    classifier = Classifier(network, modelfile.make_card(network, mode, CLASSES))
    last = network.layers[-1]
    features = classifier.features(pixels(5))
    assert features.shape == (5, last.w.shape[1]) and features.dtype == np.float32
    scores = features @ last.w.numpy().T + last.b.numpy()
    np.testing.assert_allclose(classifier.scores(features), scores, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(pixels(5)), softmax(scores), atol=1e-6)
    assert classifier.features(pixels(0)).shape == (0, last.w.shape[1])


@every_mode
def test_numpy_and_torch_agree(mode, tmp_path):
    x = pixels(5)
    data = model_file(small_network(mode), mode, tmp_path / "model")
    on_numpy, on_torch = (Classifier.load(data, arrays).probabilities(x) for arrays in ("numpy", "torch"))
    assert on_numpy.dtype == on_torch.dtype == np.float32
    np.testing.assert_allclose(on_numpy, on_torch, atol=1e-5)


def test_classify_is_decode_and_probabilities(model):
    classifier = Classifier.open(model)
    answer = classifier.classify(picture())
    p = classifier.probabilities(decode(picture(), 16)[None])[0]
    assert answer == {CLASSES[k]: float(p[k]) for k in range(3)}
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def predict(*arguments, cwd=None):
    command = [sys.executable, "-m", "scene.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


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
    one = tmp_path / "one.png"
    none = tmp_path / "none.png"
    one.write_bytes(picture())
    result = predict(one, none, "--model", model, "--json")
    answer = Classifier.open(model).classify(picture())
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {"photo": str(one), "scene": next(iter(answer)),
                     "probabilities": pytest.approx(answer, abs=1e-6)}
    assert second == {"photo": str(none), "error": "cannot be read: No such file or directory"}
    assert result.returncode == 2


@pytest.fixture
def unsure(tmp_path):
    """A model that is never sure."""
    path = tmp_path / "unsure"
    path.write_bytes(calibrated(sure=np.float32(NEVER), strange=np.float32(1e9)))
    return path


def test_command_says_that_it_is_not_sure(unsure, tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
    result = predict(tmp_path / "one.png", "--model", unsure)
    first, *rows = result.stdout.splitlines()
    likeliest = list(Classifier.open(unsure).classify(picture()).items())
    words = ", ".join(f"{name} {100 * p:.0f} %" for name, p in likeliest[:2])
    assert first == f"{tmp_path}/one.png: not sure: {words}" and len(rows) == 3
    result = predict(tmp_path / "one.png", "--model", unsure, "--json")
    answer = json.loads(result.stdout)
    assert answer["sure"] is False and answer["reason"] == "close_call" and answer["scene"] == likeliest[0][0]


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
    (None, "model: No such file or directory.\n"),
    (b"no model", "model is not a usable model: it is not a model file.\n"),
])
def test_a_bad_model_is_a_sentence(content, message, tmp_path):
    if content:
        (tmp_path / "model").write_bytes(content)
    result = predict("photo.jpg", "--model", "model", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)
