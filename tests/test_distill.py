"""learn/distill.py: soft labels of trained models, and training that learns from them."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from scene.answer import modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.modelfile import ModelFileError, load
from scene.errors import UserError
from scene.learn.calibrate import subset
from scene.learn.distill import BETA, open_models, soften
from scene.learn.loop import train
from scene.learn.recipe import DISTILLATION, SMOOTHING, crop_at, defaults
from scene.models import CNN, FCNN, MODES
from scene.nn.loss import softmax
from scene.photos import folder
from scene.photos.folder import Photos
from tests.jobs import main_job, make_photos, make_settings, photos
from tests.test_teacher import save

CLASSES = ["black", "grey", "white"]


def options(*paths, **changes):
    usual = {"no_cache": True, "cache_size": 1, "check_contents": False}
    return Namespace(distill=[str(path) for path in paths], **usual | changes)


@pytest.fixture
def data(tmp_path):
    make_photos(tmp_path / "train", CLASSES)
    make_photos(tmp_path / "test", CLASSES)
    return tmp_path


def some_photos(n=30, classes=CLASSES, size=16):
    pixels, labels = photos(n, size, len(classes))
    return Photos(pixels.numpy(), labels.numpy(), [f"{i}.png" for i in range(n)], list(classes))


def softened(ours, *paths, **changes):
    asked = options(*paths, **changes)
    return soften(ours, open_models(asked), asked)


def test_soft_labels_are_the_smoothed_label_and_the_mean_answer_of_the_models(tmp_path, capsys):
    ours = some_photos()
    for seed in range(2):
        save(tmp_path / f"model_{seed}", classes=CLASSES, seed=seed, terms=f"Terms {seed}.")
    models = [Classifier.open(tmp_path / f"model_{seed}") for seed in range(2)]
    found = softened(ours, tmp_path / "model_0", tmp_path / "model_1")

    each = [softmax(model.scores(model.features(ours.pixels))) for model in models]
    q = (1 - BETA) * SMOOTHING / 3 + BETA * np.mean(each, 0)
    q[np.arange(30), ours.labels] += (1 - BETA) * (1 - SMOOTHING)
    np.testing.assert_allclose(found.soft, q, atol=1e-6)
    np.testing.assert_allclose(found.soft.sum(1), 1, atol=1e-6)
    assert found.soft.dtype == np.float32 and found.pixels is ours.pixels
    assert found.distilled_from == [
        {"sha256": model.sha256, "terms": f"Terms {k}."} for k, model in enumerate(models)]
    right = [(p.argmax(1) == ours.labels).mean() for p in each]
    assert capsys.readouterr().out == "".join(
        f"Learning also from {tmp_path}/model_{k} ({model.sha256[:12]}). Its terms: Terms {k}.\n"
        f"It is right about {right[k]:.1%} of these photos.\n" for k, model in enumerate(models))


def test_without_models_photos_stay_as_they_are():
    ours = some_photos()
    assert soften(ours, open_models(Namespace(distill=None)), None) is ours


def test_some_of_the_photos_keep_their_soft_labels(tmp_path):
    save(tmp_path / "model", classes=CLASSES)
    found = softened(some_photos(), tmp_path / "model")
    few = np.arange(30) % 4 == 1
    np.testing.assert_array_equal(subset(found, few).soft, found.soft[few])


def test_a_model_may_have_its_classes_in_another_order(tmp_path):
    network = save(tmp_path / "model", classes=CLASSES)
    last = network.layers[-1]
    last.w[...], last.b[...] = last.w[::-1].copy(), last.b[::-1].copy()
    modelfile.save(tmp_path / "other", network, modelfile.make_card(network, "CNN", CLASSES[::-1]))
    one, other = (softened(some_photos(), tmp_path / name).soft for name in ("model", "other"))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.ptp(one[0, 1:]) > 1e-3, "another order of the answers would show"


@pytest.mark.parametrize("classes, words", [
    (["black", "grey"], "model does not know the class white, so it cannot be distilled. Name a model that "),
    (["black", "grey", "red", "white"], "model also knows the class red, which the photos do not have, so "),
])
def test_models_of_other_classes_are_refused(classes, words, tmp_path):
    save(tmp_path / "model", classes=classes)
    with pytest.raises(UserError, match=words):
        softened(some_photos(), tmp_path / "model")


def test_a_model_whose_answers_are_nan_is_refused(tmp_path, monkeypatch):
    save(tmp_path / "model", classes=CLASSES)
    models = open_models(options(tmp_path / "model"))
    models[0][1].network.layers[-1].w[...] = np.nan
    with pytest.raises(UserError, match="model cannot be distilled: some of its probabilities are NaN."):
        soften(some_photos(), models, options())


def test_a_damaged_model_is_named(tmp_path):
    (tmp_path / "model").write_bytes(b"1234")
    with pytest.raises(ModelFileError, match=f"{tmp_path}/model is not a usable model: it is not a"):
        open_models(options(tmp_path / "model"))


@pytest.mark.parametrize("cached", [False, True])
def test_a_model_of_another_size_sees_the_same_photos_at_its_own(cached, data):
    save(data / "model", classes=CLASSES, image_size=24)
    ours, = folder.load([folder.scan(data / "train")], CLASSES, 16)[0]
    larger, = folder.load([folder.scan(data / "train")], CLASSES, 24)[0]
    some = np.arange(18) % 3 != 1
    found = softened(subset(ours, some), data / "model", no_cache=not cached, cache=str(data / "cache"))
    np.testing.assert_array_equal(found.soft, softened(subset(larger, some), data / "model").soft)
    assert (data / "cache").exists() == cached


def test_a_photo_that_cannot_be_read_again_at_the_models_size(tmp_path, monkeypatch):
    save(tmp_path / "model", classes=CLASSES, image_size=24)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^0.png: .*It could be read a moment ago. Do not change photos "):
        softened(some_photos(), tmp_path / "model")


@pytest.mark.parametrize("mode", PRETRAINED)
def test_scenes_own_models_bring_their_terms(mode, capsys):
    own = Classifier.open(PRETRAINED[mode])
    found = softened(some_photos(20, own.classes, own.image_size), PRETRAINED[mode])
    terms = "for research and education, see scene/pretrained/README.md"
    assert found.distilled_from == [{"sha256": own.sha256, "terms": terms}]
    assert f"Its terms: {terms}.\n" in capsys.readouterr().out


def test_soft_labels_that_say_what_smoothed_labels_say_train_the_same_network():
    pixels, labels = photos(64)
    smoothed = torch.eye(3)[labels] * (1 - SMOOTHING) + SMOOTHING / 3
    trained = []
    for loss, soft in ("cross-entropy", None), (DISTILLATION, smoothed):
        network = FCNN(3, 16)
        settings = make_settings(epochs=3, learning_rate=0.02, loss=loss)
        history = train(network, pixels, labels, settings, soft=soft)
        trained.append((network.params.clone(), torch.tensor(history)))
    torch.testing.assert_close(trained[0], trained[1])


def test_it_is_the_soft_labels_that_are_learned():
    """All of them name the next class."""
    pixels, labels = photos(300)
    network = FCNN(3, 16)
    soft = torch.eye(3)[(labels + 1) % 3] * 0.9 + 0.1 / 3
    train(network, pixels, labels, make_settings(epochs=20, learning_rate=0.02, loss=DISTILLATION), soft=soft)
    assert (network.forward(pixels).argmax(1) == (labels + 1) % 3).float().mean() > 0.9


def test_distillation_from_a_trained_start_shows_smaller_crops():
    network = CNN(2)
    few, plain = (make_settings(**defaults(MODES["CNN"], 88_000, trained=True, distilled=distilled))
                  for distilled in (True, False))
    assert crop_at(0.59, network, few) == (64, pytest.approx(0.35))
    assert crop_at(0.61, network, few) == (80, pytest.approx(0.74))
    assert crop_at(0.61, network, plain) == (80, 1)
    begun = defaults(MODES["CNN"], 88_000, distilled=True)
    assert begun == defaults(MODES["CNN"], 88_000) | {"loss": DISTILLATION}


def test_the_command_learns_from_models_of_any_mode_and_size(data):
    teach = main_job("train", "test", "CNN", "--from-scratch", "--epochs", 2, "--image-size", 24,
                     "--output", "teacher", "--no-report", cwd=data)
    assert (teach.returncode, teach.stderr) == (0, "")
    command = ["train", "test", "FCNN", "--epochs", 2, "--image-size", 16]
    alone = main_job(*command, "--output", "alone", "--no-report", cwd=data)
    assert (alone.returncode, alone.stderr) == (0, "")
    soft = [*command, "--distill", "teacher/model_CNN"]
    result = main_job(*soft, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Learning also from teacher/model_CNN (" in result.stdout and "loss distillation," in result.stdout
    assert "Labels are soft, so the smallest possible loss is " in result.stdout
    assert ", in training compared with soft labels" in (data / "report_FCNN.html").read_text()
    (ours, card), (other, _) = (load((data / name / "model_FCNN").read_bytes()) for name in (".", "alone"))
    assert not np.array_equal(ours.params, other.params), "it learns from the soft labels"
    sha256 = Classifier.open(data / "teacher/model_CNN").sha256
    assert card["distilled_from"] == [{"sha256": sha256, "terms": ""}]
    found = json.loads((data / "metrics_FCNN.json").read_text())
    assert found["settings"]["loss"] == DISTILLATION and found["run"]["distilled from"] == sha256[:12]
    again = main_job(*soft, "--resume", cwd=data)
    assert "This run is finished" in again.stdout
    other = main_job(*command, "--resume", cwd=data).stdout
    assert f"was distillation and is cross-entropy; distilled from was {sha256[:12]} and is none" in other


@pytest.mark.parametrize("wrong, words", [
    (["--loss", "mse"], "--distill trains all layers with a loss of its own: leave --head-only and --loss o"),
    (["--head-only"], "--distill trains all layers with a loss of its own: leave --head-only and --loss ou"),
    (["--folds", 3], "--folds would test on photos that the models of --distill may have been trained on"),
])
def test_what_distillation_cannot_be_combined_with(wrong, words, data):
    result = main_job("train", "CNN", "--distill", "model_CNN", *wrong, cwd=data)
    assert result.returncode == 2 and words in result.stderr
