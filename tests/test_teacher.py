"""learn/teacher.py: which model training starts from, what is said about it, and the network it makes."""

import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from scene.answer import modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.modelfile import ModelFileError
from scene.errors import UserError
from scene.learn import run
from scene.learn.checkpoint import Checkpoint
from scene.learn.head import with_head
from scene.learn.loop import train
from scene.learn.recipe import FINE_TUNING_PHOTOS, START_PHOTOS
from scene.learn.teacher import choose
from scene.models import CNN, FCNN, MODES
from scene.nn.activation import ReLU
from scene.nn.norm import BatchNorm
from scene.photos.folder import Photos
from tests.jobs import make_settings, photos


def options(**changes):
    """The options of scene.main that matter here, as they are if none is given."""
    usual = {"mode": "CNN", "image_size": None, "loss": None, "start_from": None, "from_scratch": False,
             "head_only": False, "widths": None}
    return Namespace(**usual | changes)


SIZE = Classifier.open(PRETRAINED["CNN"]).image_size


@pytest.mark.parametrize("changes, count, starts", [
    ({}, 1, True),
    ({}, START_PHOTOS, True),
    ({}, START_PHOTOS + 0.5, False),
    ({"image_size": SIZE}, 10, True),
    ({"image_size": SIZE - 16}, 10, False),
    ({"loss": "cross-entropy"}, 10, True),
    ({"loss": "mse"}, 10, False),
    ({"widths": [8, 16]}, 10, False),
    ({"mode": "FCNN"}, 10, False),
    ({"from_scratch": True}, 10, False),
    ({"start_from": "pretrained", "loss": "mse", "image_size": 64}, 10 * START_PHOTOS, True),
    ({"head_only": True}, 10 * START_PHOTOS, True),
    ({"mode": "FCNN", "start_from": "pretrained"}, 10, True),
    ({"mode": "FCNN", "head_only": True}, 10, True),
])
def test_training_starts_from_scenes_own_model_where_that_helps_or_is_asked_for(changes, count, starts):
    chosen = options(**changes)
    teacher = choose(chosen, count)
    assert bool(teacher) == starts
    source = teacher.network if starts else MODES[chosen.mode]
    assert chosen.image_size == (changes.get("image_size") or source.image_size)
    if starts:
        assert teacher.path == PRETRAINED[chosen.mode]


def test_after_a_change_of_the_layers_training_starts_from_nothing(tmp_path, monkeypatch, capsys):
    """As a learner changes them who follows the tutorial."""
    save(tmp_path / "model_CNN")
    monkeypatch.setitem(PRETRAINED, "CNN", str(tmp_path / "model_CNN"))
    monkeypatch.setattr("scene.models.ReLU", type("Leaky", (ReLU,), {}))
    assert choose(options(), 10) is None
    assert re.fullmatch(r"Note: .*model_CNN is not a usable model: its layer 4 is ReLU\(\), and this "
                        r"version's CNN has Leaky\(\) there. So training starts from nothing.\n",
                        capsys.readouterr().out)
    with pytest.raises(ModelFileError, match="Leaky"):
        choose(options(start_from="pretrained"), 10)


def save(path, mode="CNN", classes=("ocean", "road"), image_size=16, seed=0, **optional):
    """A model file with random weights. Returns its network, on NumPy."""
    network = MODES[mode].network(len(classes), image_size).start(torch.Generator().manual_seed(seed))
    modelfile.save(path, network, modelfile.make_card(network, mode, list(classes), **optional))
    return modelfile.load(path.read_bytes())[0]


def test_a_teacher_is_described_by_its_path_and_terms_and_the_model_keeps_its_hash(tmp_path, capsys):
    save(tmp_path / "mine", terms="Only for my aunt.")
    teacher = choose(options(start_from=str(tmp_path / "mine")), 10)
    sha256 = modelfile.hash_of((tmp_path / "mine").read_bytes())
    assert capsys.readouterr().out == (
        f"Training starts from {tmp_path}/mine ({sha256[:12]}). Its terms: Only for my aunt. Other starts: "
        "--from-scratch, or --start-from PATH.\n")
    assert teacher.started_from == {"sha256": sha256, "terms": "Only for my aunt."}


def test_a_model_without_terms_and_scenes_own(tmp_path, capsys):
    save(tmp_path / "mine")
    choose(options(start_from=str(tmp_path / "mine")), 10)
    assert "terms:" not in capsys.readouterr().out
    choose(options(), 12.4)
    line = capsys.readouterr().out
    assert line.startswith("Training starts from Scene's own model (") and line.count("\n") == 1
    assert re.search(r" Its terms: for research and education.* see scene/pretrained/README\.md\. Oth", line)
    assert f"at most {START_PHOTOS} photos per class (here 12)" in line
    choose(options(from_scratch=True), 12.4)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_a_teacher(tmp_path, monkeypatch):
    save(tmp_path / "mine", "FCNN")
    with pytest.raises(UserError, match="mine is a model of mode FCNN, not CNN: name the mode it has"):
        choose(options(start_from=str(tmp_path / "mine")), 10)
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(modelfile.ModelFileError, match="text is not a usable model"):
        choose(options(start_from=str(tmp_path / "text")), 10)
    with pytest.raises(FileNotFoundError):
        choose(options(start_from=str(tmp_path / "nowhere")), 10)
    monkeypatch.delitem(PRETRAINED, "FCNN")
    with pytest.raises(UserError, match="Scene has no pretrained model of mode FCNN: name a model file"):
        choose(options(mode="FCNN", head_only=True), 10)


def make(classes=3, mode="CNN", image_size=16):
    pixels, labels = photos(n=40, classes=classes, size=image_size)
    names = [f"class {k}" for k in range(classes)]
    some = Photos(pixels.numpy(), labels=labels.numpy(), paths=[""] * 40, classes=names)
    network = MODES[mode].network(classes, image_size)
    return network, some, modelfile.make_card(network, mode, names)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fine_tuned", [True, False])
def test_the_new_network_has_the_teachers_layers_and_a_head_that_is_right(mode, fine_tuned, tmp_path):
    theirs = save(tmp_path / "mine", mode)
    teacher = choose(options(mode=mode, start_from=str(tmp_path / "mine")), 13)
    network, some, card = make(mode=mode)
    with_head(network, teacher, some.pixels, some.labels, card, balanced=False, fine_tuned=fine_tuned)
    last = f"{len(network.layers) - 1}."
    measured = [slot.name for slot in network.statistic_slots if isinstance(slot.layer, BatchNorm)]
    assert measured
    for name, array in network.arrays().items():
        same = np.array_equal(array, theirs.arrays()[name])
        changed = name.startswith(last) or mode == "CNN" and fine_tuned and name in measured
        assert same != changed, name
    p = Classifier(network, card).probabilities(some.pixels)
    assert (p.argmax(1) == some.labels).mean() > 0.9, "brightness is in any features"


@pytest.mark.parametrize(("mode", "each", "changes", "epochs"), [
    ("CNN", FINE_TUNING_PHOTOS - 1, {}, 0),
    ("CNN", FINE_TUNING_PHOTOS, {}, 20),
    ("FCNN", FINE_TUNING_PHOTOS - 1, {}, 20),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"batch_size": 16}, 0),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"epochs": 7}, 7),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"minutes": 1}, 20),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"learning_rate": 0.01}, 20),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"loss": "mse"}, 20),
    ("CNN", FINE_TUNING_PHOTOS - 1, {"distill": ["model"]}, 20),
    ("CNN", 300, {"head_only": True}, 0),
])
def test_very_few_photos_train_a_head_alone(mode, each, changes, epochs):
    _, some, _ = make(mode=mode)
    some = replace(some, labels=np.arange(4 * each) % 4, classes=["a", "b", "c", "d"])
    chosen = Namespace(**{"mode": mode, "head_only": None, "minutes": None, "distill": None} | changes)
    assert run.make_settings(chosen, some, trained=True).epochs == epochs
    if not chosen.head_only:
        assert run.make_settings(chosen, some, trained=False).epochs > 0


def test_a_network_without_a_fixed_size_may_have_another_and_one_with_a_fixed_size_not(tmp_path):
    theirs = save(tmp_path / "mine")
    teacher = choose(options(start_from=str(tmp_path / "mine")), 13)
    network, some, card = make(image_size=24)
    with_head(network, teacher, some.pixels, some.labels, card, balanced=False, fine_tuned=False)
    assert torch.isfinite(network.params).all()
    statistics = [slot.name for slot in network.statistic_slots if isinstance(slot.layer, BatchNorm)]
    assert not any(np.array_equal(network.arrays()[name], theirs.arrays()[name]) for name in statistics)
    save(tmp_path / "mine", "FCNN")
    teacher = choose(options(mode="FCNN", start_from=str(tmp_path / "mine")), 13)
    network, some, card = make(mode="FCNN", image_size=24)
    with pytest.raises(UserError, match="mine has layers for photos of 16 pixels a side, not 24: leave"):
        with_head(network, teacher, some.pixels, some.labels, card, balanced=False, fine_tuned=True)
    assert isinstance(network, FCNN)


def test_training_starts_from_the_head_and_resuming_it_from_the_checkpoint(tmp_path):
    save(tmp_path / "mine")
    teacher = choose(options(start_from=str(tmp_path / "mine")), 13)
    network, some, card = make()
    with_head(network, teacher, some.pixels, some.labels, card, balanced=False, fine_tuned=True)
    source = network
    pixels, labels = torch.from_numpy(some.pixels), torch.from_numpy(some.labels)

    def fine_tuned(checkpoint=None, rate=1e-9):
        pupil = CNN(3, 16)
        train(pupil, pixels, labels, make_settings(epochs=1, learning_rate=rate), source, checkpoint)
        return pupil

    untouched = fine_tuned()
    torch.testing.assert_close(untouched.layers[-1].w, source.layers[-1].w)
    # Muon has set the lengths of the weights, which were random, and the norms make up for that.
    torch.testing.assert_close(untouched.params, source.params, rtol=0.04, atol=1e-3)
    torch.testing.assert_close(untouched.forward(pixels), source.forward(pixels), rtol=0.01, atol=0.01)
    first = fine_tuned(Checkpoint(tmp_path / "checkpoint", {}), rate=0.01)
    assert not torch.allclose(first.params, source.params)
    again = fine_tuned(Checkpoint(tmp_path / "checkpoint", {}), rate=0.5)
    assert torch.equal(again.params, first.params) and torch.equal(again.state, first.state)
