"""answer/class_map.py, gradient_map.py and show/map_picture.py: what the network sees, and who shows it."""

import io
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scene.answer import endpoint, gradient_map, modelfile, openapi
from scene.answer.class_map import ClassMap, class_maps, is_exact
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.gradient_map import gradient_maps
from scene.models import MODES
from scene.show import map_picture
from scene.show.pictures import overlay
from tests.asking import CLASSES, OCEAN, body, small_network


@cache
def classifier(mode, seed=0, arrays="numpy", mirror=True):
    network = small_network(mode, seed)
    network.state.add_(0.1 * torch.rand(network.state.shape, generator=torch.Generator().manual_seed(seed)))
    card = modelfile.make_card(network, mode, CLASSES) | {"mirror": mirror}
    return Classifier.load(modelfile.encode(network, card), arrays)


def photo(seed=0, size=16):
    return np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)


# The exact map


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(["numpy", "torch"]))
def test_the_map_and_the_bias_add_up_to_the_score(seed, mirror, arrays):
    model = classifier("CNN", seed % 3, arrays, mirror)
    pixels = photo(seed)
    scores = model.scores(model.features(pixels[None]))[0]
    for k, found in zip((2, 0), class_maps(model, pixels, [2, 0]), strict=True):
        assert (found.name, found.places.shape, found.places.dtype) == (CLASSES[k], (2, 2), np.float32)
        assert found.score == pytest.approx(scores[k], abs=1e-5)
        assert found.bias + found.places.sum(dtype=float) == pytest.approx(scores[k], abs=1e-5)


def test_the_pretrained_models_map_adds_up_and_is_not_flat():
    model = Classifier.open(PRETRAINED["CNN"])
    pixels = photo(size=model.image_size)
    found, = class_maps(model, pixels, [4])
    assert found.places.shape == (12, 12) and np.ptp(found.places) > 0.01
    assert found.score == pytest.approx(model.scores(model.features(pixels[None]))[0, 4], abs=1e-5)


def test_a_place_is_the_formula_by_hand():
    model = classifier("CNN", mirror=False)
    x = photo()[None]
    for layer in model.network.layers[:-2]:
        x = layer.forward(x)
    h, w = 1, 0
    by_hand = sum(model.network.layers[-1].w[1, c] * x[0, h, w, c] for c in range(x.shape[3])) / 4
    found, = class_maps(model, photo(), [1])
    assert found.places[h, w] == pytest.approx(by_hand, abs=1e-6)


def test_the_map_of_the_mirror_image_is_the_mirror_image_of_the_map():
    model = classifier("CNN")
    one, = class_maps(model, photo(), [0])
    other, = class_maps(model, np.ascontiguousarray(photo()[:, ::-1]), [0])
    assert np.allclose(one.places, other.places[:, ::-1], atol=1e-6)
    assert not np.allclose(one.places, other.places)


def test_numbers_that_overflow_are_not_a_map():
    model = classifier("CNN", seed=9)
    model.network.layers[-1].w[:] = 3e38
    with pytest.raises(modelfile.ModelFileError, match="NaN"):
        class_maps(model, photo(), [0])


# The gradient


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_gradient_is_the_slope_of_the_score(mode, mirror, monkeypatch):
    """Without noise and blur it is ∂score/∂pixel, here beside finite differences."""
    monkeypatch.setattr(gradient_map, "NOISE", 0.0)
    monkeypatch.setattr(gradient_map, "COPIES", 2)
    monkeypatch.setattr(gradient_map, "blurred", lambda values: values)
    model = classifier(mode, arrays="numpy", mirror=mirror)
    found, = gradient_maps(model, photo(), [1])

    def score(pixels):
        views = np.stack([pixels, pixels[:, ::-1]] if mirror else [pixels])
        return model.network.forward(views)[:, 1].mean()

    rows, columns = np.unravel_index(np.argsort(found.ravel())[-3:], found.shape)
    for h, v in zip(rows, columns, strict=True):
        slopes = []
        for c in range(3):
            up, down = photo().astype(np.float32), photo().astype(np.float32)
            up[h, v, c] += 0.25
            down[h, v, c] -= 0.25
            slopes.append((score(up) - score(down)) / 0.5)
        assert np.linalg.norm(slopes) == pytest.approx(found[h, v], rel=0.1)


def test_the_gradients_of_a_photo_are_the_same_every_time_and_turn_with_it():
    model = classifier("FCNN")
    one, other = (gradient_maps(model, photo(), [2])[0] for _ in range(2))
    assert one.shape == (16, 16) and (one == other).all() and (one >= 0).all()
    mirrored, = gradient_maps(model, np.ascontiguousarray(photo()[:, ::-1]), [2])
    assert np.corrcoef(mirrored[:, ::-1].ravel(), one.ravel())[0, 1] > 0.8


def test_only_a_network_that_ends_in_a_mean_over_places_is_exact():
    assert is_exact(classifier("CNN").network) and not is_exact(classifier("FCNN").network)


def test_prediction_draws_exact_maps_without_torch():
    script = """
import sys
sys.modules["torch"] = None
import numpy as np
from scene.answer.class_map import class_maps
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.gradient_map import NeedsTorch
model = Classifier.open(PRETRAINED["CNN"])
print(class_maps(model, np.zeros((80, 80, 3), np.uint8), [0])[0].places.shape)
try:
    class_maps(Classifier.open(PRETRAINED["FCNN"]), np.zeros((24, 24, 3), np.uint8), [0])
except NeedsTorch as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ("(10, 10)\nThe map of a FCNN needs torch, which is not installed here: install "
                           "it, or use a CNN, whose map needs none.\n")


# The endpoint


@pytest.fixture(scope="module")
def models():
    return {mode: classifier(mode) for mode in MODES}


def ask(models, **more):
    return endpoint.answer(body(**more), "id", models.__getitem__)


def test_the_endpoint_adds_the_map_of_the_scene_if_asked(models):
    plain, mapped = ask(models)[1], ask(models, map=True)
    assert mapped[1].keys() - plain.keys() == {"map"} and ask(models, map=False)[1] == plain
    found = mapped[1]["map"]
    assert found["class"] == plain["scene"] and found["exact"] is True
    assert found["bias"] + np.sum(found["places"]) == pytest.approx(found["score"], abs=1e-5)
    assert np.shape(found["places"]) == (2, 2) and "map" in mapped[2]["milliseconds"]
    json.dumps(mapped[1], allow_nan=False)


def test_the_endpoint_answers_with_what_the_document_says(models):
    for mode in MODES:
        found = ask(models, mode=mode, map=True)[1]["map"]
        described = openapi.SCHEMAS["SceneAnswer"]["properties"]["map"]
        assert set(described["required"]) <= found.keys() <= described["properties"].keys()
        assert found["exact"] == (mode == "CNN") == ("bias" in found)
    assert openapi.SCHEMAS["SceneRequest"]["properties"]["map"]["type"] == "boolean"


def test_the_endpoint_without_torch_refuses_a_map_that_needs_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, answer, entry = ask(models, mode="FCNN", map=True)
    assert (status, answer["error"]["code"], entry["code"]) == (400, "map_needs_torch", "map_needs_torch")
    assert "The map of a FCNN needs torch, which this endpoint does not" in answer["error"]["message"]
    assert ask(models, mode="FCNN")[0] == ask(models, mode="CNN", map=True)[0] == 200


@pytest.mark.parametrize("value", [1, 0, "true", None, [], {}])
def test_a_map_is_wanted_or_not(models, value):
    status, answer, _ = ask(models, map=value)
    assert (status, answer["error"]["code"]) == (400, "wrong_type") and "map" in answer["error"]["message"]


# The picture


def encoded(size, kind="JPEG", **options):
    file = io.BytesIO()
    Image.new("RGB", size, "green").save(file, kind, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6                                        # orientation: a quarter turn
    return exif


@pytest.mark.parametrize(("data", "size"), [
    (encoded((200, 100)), (640, 320)), (encoded((30, 90), "PNG"), (213, 640)),
    (encoded((1, 1), "PNG"), (640, 640)), (encoded((200, 100), exif=turned()), (320, 640)),
    (encoded((3000, 2)), (640, 1))])
def test_the_picture_has_the_photos_proportions(data, size, tmp_path):
    found = map_picture.write(tmp_path / "map.png", classifier("CNN"), data)
    with Image.open(tmp_path / "map.png") as image:
        assert (image.format, image.size) == ("PNG", size)
    assert found.name in CLASSES


def test_orange_speaks_for_and_blue_against():
    grey = np.full((8, 8, 3), 128, np.uint8)
    places = np.array([[1, -1], [0, 0]], np.float32)
    image = np.asarray(overlay(grey, ClassMap("a", 0.0, 0.0, places), 1.0)).astype(int)
    red, blue = image[0, 0], image[0, 7]
    assert red[0] > red[2] + 80 and blue[2] > blue[0] + 80
    assert abs(image[7] - image[7, 0, 0]).max() < 60
    flat = overlay(grey, ClassMap("a", 0.0, None, np.ones((2, 2), np.float32)), 1.0)
    assert np.ptp(np.asarray(flat)) == 0                    # sensitivities that are all the same mark nothing


def test_predict_writes_the_map(tmp_path):
    (tmp_path / "a.jpg").write_bytes(OCEAN)
    command = [sys.executable, "-m", "scene.predict", "a.jpg", "--map", "out.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (640, 480)
    (tmp_path / "b.jpg").write_bytes(OCEAN)
    command.insert(3, "b.jpg")
    two = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert two.returncode == 2 and "--map takes a single photo" in two.stderr
