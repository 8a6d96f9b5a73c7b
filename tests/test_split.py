"""photos/split.py, learn/folds.py and the commands that use them: who is tested on what, to the letter."""

import contextlib
import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scene import main
from scene.answer import modelfile
from scene.errors import UserError
from scene.learn.calibrate import Measured
from scene.learn.folds import cross_validate, make_folds
from scene.models import MODES
from scene.photos import decode, folder, sets, split
from scene.photos.findings import DataError, Finding
from scene.photos.folder import Listing, Photos
from tests.jobs import main_job, make_photos, make_settings
from tests.jobs import photos as noise
from tests.strategies import seeds
from tests.test_duplicates import encoded, scene_like

CLASSES = "road", "sea"


# Parts


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=40), seeds)
def test_parts_keep_groups_together_and_come_close_to_their_targets(pieces, seed):
    """pieces: the class and the size of each group."""
    labels = np.array([k for k, size in pieces for _ in range(size)])
    groups = np.array([g for g, (_, size) in enumerate(pieces) for _ in range(size)])
    names = [str(i) for i in range(len(labels))]
    counts = np.bincount(labels, minlength=3)
    targets = np.stack([0.2 * counts, 0.8 * counts])
    parts = split.divide(labels, groups, names, targets, seed)
    for group in set(groups):
        assert len(set(parts[groups == group])) == 1
    found = np.stack([np.bincount(labels[parts == p], minlength=3) for p in (0, 1)])
    assert (abs(found - targets) <= 4).all()
    np.testing.assert_array_equal(parts, split.divide(labels, groups, names, targets, seed))


def test_another_seed_gives_other_parts_of_the_same_size():
    labels = np.repeat([0, 1], 50)
    names = [str(i) for i in range(100)]
    targets = np.array([[10, 10], [40, 40]])
    one, two = (split.divide(labels, np.arange(100), names, targets, seed) for seed in (0, 1))
    assert one.tolist() != two.tolist()
    for parts in (one, two):
        assert [np.bincount(labels[parts == p]).tolist() for p in (0, 1)] == [[10, 10], [40, 40]]


def test_single_photos_decide_for_themselves_when_others_are_added():
    """The order of groups depends on each one's name alone."""
    keys = [split.shuffled(name, 3) for name in "abc"]
    assert keys == [split.shuffled(name, 3) for name in "abc"] and len(set(keys)) == 3
    assert keys != [split.shuffled(name, 4) for name in "abc"]


# One folder


def burst(image, second, day):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"2024:05:{day:02} 10:20:{second:02}"
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """20 photos of road and sea each: 2 bursts of 4 frames, 2 pairs of near-copies, and single photos."""
    root = tmp_path_factory.mktemp("album") / "photos"
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        files = {}
        for b in range(2):
            files |= {f"burst{b}_{i}.jpg": burst(scene_like(1000 * k + 10 * b + i), 5 * i, 1 + b)
                      for i in range(4)}
        for c in range(2):
            image = scene_like(1000 * k + 100 + c)
            files |= {f"copy{c}_a.jpg": encoded(image),
                      f"copy{c}_b.jpg": encoded(image.resize((60, 60)), quality=50)}
        files |= {f"single{i}.jpg": encoded(scene_like(1000 * k + 200 + i)) for i in range(8)}
        for file, data in files.items():
            (root / name / file).write_bytes(data)
    return root


def rows(data):
    return list(csv.DictReader(io.StringIO(data.decode())))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [24, 32])
def test_copies_and_bursts_stay_on_one_side(size, seed, album):
    train, test, findings, written = sets.load_split(album, size, False, 0.3, seed)
    assert findings == []
    assert [len(train.labels), len(test.labels)] == [28, 12]
    assert np.bincount(test.labels).tolist() == [6, 6], "stratified"
    side = {row["photo"]: row["set"] for row in rows(written)}
    assert len(side) == 40
    for name in CLASSES:
        for together in ("burst0", "burst1", "copy0", "copy1"):
            assert len({side[photo] for photo in side if photo.startswith(f"{name}/{together}")}) == 1
    for photos, word in (train, "train"), (test, "test"):
        assert [path[len(str(album)) + 1:] for path in photos.paths] == [p for p in side if side[p] == word]
        for path, pixels, label in zip(photos.paths, photos.pixels, photos.labels, strict=True):
            with open(path, "rb") as file:
                np.testing.assert_array_equal(pixels, decode.decode(file.read(), size))
            assert path.split("/")[-2] == CLASSES[label]


def test_a_list_given_back_gives_the_same_sets(album, tmp_path):
    first = sets.load_split(album, 24, False, 0.3, 0)
    (tmp_path / "list.csv").write_bytes(first[3])
    again = sets.load_split(album, 24, False, None, None, tmp_path / "list.csv")
    assert again[3] == first[3]
    for one, two in zip(first[:2], again[:2], strict=True):
        assert one.paths == two.paths and np.array_equal(one.pixels, two.pixels)


def findings_of(error):
    return [(finding.verdict, finding.where, finding.what) for finding in error.value.findings]


@pytest.mark.parametrize("number", [1, 9])
def test_a_class_with_too_few_photos(number, tmp_path):
    make_photos(tmp_path / "photos", count=10)
    for path in sorted((tmp_path / "photos/dark").iterdir())[number:]:
        path.unlink()
    with pytest.raises(DataError) as error:
        sets.load_split(tmp_path / "photos", 24, False, 0.2, 0)
    (_, where, what), = findings_of(error)
    assert where == f"{tmp_path}/photos/dark"
    assert what.startswith(f"it has {number} photo{'s' * (number > 1)}, but at least 5 are needed to train ")


def test_ten_photos_are_enough(tmp_path):
    make_photos(tmp_path / "photos", count=10)
    train, test, _, _ = sets.load_split(tmp_path / "photos", 24, False, 0.2, 0)
    assert np.bincount(train.labels).tolist() == np.bincount(test.labels).tolist() == [5, 5]


@pytest.mark.parametrize("share, tested", [(0.01, [5, 5]), (0.2, [5, 8]), (0.5, [10, 20]), (0.99, [15, 35])])
def test_every_class_keeps_a_handful_on_both_sides(share, tested):
    listing = Listing("album", {"dark": [f"album/dark/{i}" for i in range(20)],
                                "light": [f"album/light/{i}" for i in range(40)], "none": []})
    groups = {path: i for i, path in enumerate(listing.paths)}
    (train, test), findings = split.split(listing, groups, share, 0)
    assert [len(photos) for photos in test.photos.values()] == [*tested, 0]
    assert [len(photos) for photos in train.photos.values()] == [20 - tested[0], 40 - tested[1], 0]
    assert findings == [] == split.find_few(listing)


def test_a_list_without_a_class_in_test_says_so(album, tmp_path):
    (tmp_path / "list.csv").write_text("photo,set\nroad/single0.jpg,train\nsea/single0.jpg,train\n"
                                       "road/single1.jpg,test\n")
    _, _, findings, _ = sets.load_split(album, 24, False, None, None, tmp_path / "list.csv")
    said = "has none of its photos in TEST, so this class is not tested"
    assert [str(each) for each in findings if said in str(each)] == [
        str(Finding("warning", f"{album}/sea", f"{tmp_path}/list.csv {said}"))]


def test_a_class_that_is_one_burst(tmp_path):
    make_photos(tmp_path / "photos", count=12)
    for i in range(12):
        (tmp_path / f"photos/dark/{i}.png").unlink()
        (tmp_path / f"photos/dark/{i}.jpg").write_bytes(burst(scene_like(i), 5 * i, 1))
    with pytest.raises(DataError) as error:
        sets.load_split(tmp_path / "photos", 24, False, 0.2, 0)
    (_, where, what), = findings_of(error)
    assert where == f"{tmp_path}/photos/dark" and what.startswith(
        "it cannot be divided into TRAIN and TEST: too many of its 12 photos belong together")


@pytest.mark.parametrize("text, message", [
    ("", "is not a list of photos: its first line must name the columns photo and set"),
    ("road/single0.jpg,test\n", "is not a list of photos"),
    ("photo,set\nroad/single0.jpg,both\n", "line 2: the set must be train or test."),
    ("photo,set\nroad/single0.jpg\n", "line 2: the set must be train or test."),
    ("photo,set\na,test\na,train\n", "line 3: a is in both sets."),
])
def test_a_list_that_is_none(text, message, album, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError) as error:
        sets.load_split(album, 24, False, None, None, tmp_path / "list.csv")
    assert f"{tmp_path}/list.csv" in str(error.value) and message in str(error.value)


def test_a_list_that_does_not_fit_the_folder(album, tmp_path):
    _, _, _, written = sets.load_split(album, 24, False, 0.3, 0)
    lines = written.decode().splitlines(keepends=True)
    (tmp_path / "list.csv").write_text("".join(lines[:-1]) + "sea/gone.jpg,train,9\n")
    with pytest.raises(DataError) as error:
        sets.load_split(album, 24, False, None, None, tmp_path / "list.csv")
    (first, where, gone), (second, _, new) = findings_of(error)
    assert (first, second, where) == ("error", "warning", f"{tmp_path}/list.csv")
    assert gone == (f"1 photo of this list cannot be used or found in {album}, such as sea/gone.jpg: put it "
                    "back, or remove its line")
    assert new == f"1 photo of {album} left out, since not on this list, such as sea/single7.jpg"


def test_a_list_that_leaks_says_so(album, tmp_path):
    lines = ["photo,set\n"]
    for name in CLASSES:
        lines += [f"{name}/copy0_a.jpg,train\n", f"{name}/copy0_b.jpg,test\n", f"{name}/single0.jpg,train\n"]
    (tmp_path / "list.csv").write_text("".join(lines))
    _, _, findings, _ = sets.load_split(album, 24, False, None, None, tmp_path / "list.csv")
    assert folder.count_leaks(findings) == {"leaks": 0, "near_leaks": 2}
    assert findings[1].what == (f"2 of 2 photos are near-copies of photos in {album}/(train), so the "
                                "accuracy will be too high")


def test_near_copies_in_two_classes_are_named(album, tmp_path):
    shutil.copytree(album, tmp_path / "photos")
    shutil.move(tmp_path / "photos/sea/copy0_b.jpg", tmp_path / "photos/road/wrong.jpg")
    _, _, findings, _ = sets.load_split(tmp_path / "photos", 24, False, 0.3, 0)
    (where, what), = [(finding.where, finding.what) for finding in findings]
    assert what == "nearly the same photo in two classes: move it out of one of them"
    assert "sea/copy0_a.jpg" in where and "road/wrong.jpg" in where


# Folds


class Memory:
    """A checkpoint that is kept in memory."""

    def __init__(self):
        self.saved = None

    def load(self):
        return self.saved

    def encode(self, place, arrays):
        return place, {name: array.copy() for name, array in arrays.items()}

    def write(self, data):
        self.saved = data


def answer(asked):
    """Answers with whether a photo was trained on, and its number."""
    numbers = np.flatnonzero(asked)
    both = np.stack([~asked[numbers], numbers], 1).astype(np.float32)
    return Measured(both, None, both)


@pytest.fixture
def photos():
    labels = np.repeat([0, 1], [30, 12])
    groups = np.arange(42)
    groups[3:9] = 3
    return Photos(np.arange(42), labels, [str(i) for i in range(42)], list(CLASSES), groups)


def test_no_photo_is_answered_by_a_network_that_was_trained_on_it_or_on_its_group(photos):
    fold = make_folds(photos, 4, 0)
    assert len(set(fold[3:9])) == 1
    for k in range(2):
        counts = np.bincount(fold[photos.labels == k], minlength=4)
        assert np.ptp(counts) <= 1
    answers = cross_validate(photos, 4, 0, answer, Memory())
    for found in answers.scores, answers.logs:
        assert found[:, 0].tolist() == [0] * 42, "none was trained on its own photo"
        assert found[:, 1].tolist() == list(range(42)), "and all answers are in their places"
    assert answers.labels is photos.labels


def test_finished_folds_are_not_trained_again(photos):
    memory = Memory()
    trained = []

    def interrupted(asked):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(asked)
        return answer(asked)

    with pytest.raises(KeyboardInterrupt):
        cross_validate(photos, 4, 0, interrupted, memory)
    assert memory.saved[0] == {"folds": 2}
    trained.clear()
    answers = cross_validate(photos, 4, 0, lambda asked: trained.append(asked) or answer(asked), memory)
    assert len(trained) == 2 and answers.scores[:, 1].tolist() == list(range(42))


def test_a_class_that_cannot_be_in_two_folds(photos):
    photos.groups[photos.labels == 1] = 40
    with pytest.raises(UserError, match=r"^Class sea cannot be divided into folds: its photos \(12\) belong"):
        make_folds(photos, 4, 0)


# The commands


@pytest.fixture(scope="module")
def runs(album, tmp_path_factory):
    """A folder with the output of a run on one folder, in one/, and its photos in train/ and test/."""
    root = tmp_path_factory.mktemp("runs")
    one = main_job(album, "FCNN", "--epochs", 2, "--output", "one", cwd=root)
    assert (one.returncode, one.stderr) == (0, "")
    for row in rows((root / "one/split_FCNN.csv").read_bytes()):
        target = root / row["set"] / row["photo"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(album / row["photo"], target)
    return root, one.stdout


def job(*arguments, cwd):
    """The main job in this process: what it prints, and its metrics."""
    with contextlib.chdir(cwd), contextlib.redirect_stdout(io.StringIO()) as out:
        main.run(main.parse([str(argument) for argument in arguments]))
        output = arguments[arguments.index("--output") + 1]
        path, = Path(output).glob("*.json")
        return out.getvalue(), json.loads(path.read_text())


def test_one_folder_is_the_same_run_as_train_and_test(runs, album):
    root, said = runs
    assert "\nDivided by seed 0: 30 photos to train on, 10 to test on.\n" in said
    assert "\nThe list is in one/split_FCNN.csv. The same photos again: --split one/split_FCNN.csv\n" in said
    first = json.loads((root / "one/metrics_FCNN.json").read_text())
    options = ["FCNN", "--epochs", 2]
    _, two = job("train", "test", *options, "--output", "two", cwd=root)
    _, given = job(album, *options, "--output", "given", "--split", "one/split_FCNN.csv", cwd=root)
    assert two["model"]["sha256"] == given["model"]["sha256"] == first["model"]["sha256"]
    assert two["confusion"] == given["confusion"] == first["confusion"]
    assert not (root / "two/split_FCNN.csv").exists()


def test_a_model_is_tested_on_the_whole_folder(runs, album):
    root, _ = runs
    _, report = job(album, "FCNN", "--load-model", "one/model_FCNN", "--output", "tested", cwd=root)
    assert report["photos"] == 40


def test_near_copies_are_counted_beside_the_accuracy(runs):
    root, _ = runs
    shutil.copytree(root / "test", root / "leaky")
    chosen = [path.relative_to(root / "train") for path in sorted((root / "train").glob("*/single*"))[:3]]
    for name in chosen:
        image = Image.open(root / "train" / name)
        (root / "leaky" / name).with_suffix(".webp").write_bytes(encoded(image.resize((60, 60)), "WebP"))
    said, report = job("train", "leaky", "FCNN", "--epochs", 1, "--output", "leak", cwd=root)
    assert (report["leaks"], report["near_leaks"], report["photos"]) == (0, 3, 13)
    assert ("\nThis accuracy is too high: 3 of the 13 test photos are near-copies of training photos. Keep "
            "each photo in only one of the two folders.\n") in said


def test_folds_test_all_photos_and_train_on_all(runs, album):
    root, _ = runs
    said, report = job(album, "FCNN", "--epochs", 2, "--folds", 3, "--output", "folds", cwd=root)
    assert "\nFold 3 of 3: " in said
    assert " on 40 photos, each by a network that was not trained on it: 3 folds (95 % interval " in said
    assert (report["photos"], report["folds"], sum(map(sum, report["confusion"]))) == (40, 3, 40)
    assert report["cross_validation"]["accuracy"] == report["accuracy"] and "test" not in report["folders"]
    assert not {"folds_FCNN", "checkpoint_FCNN", "split_FCNN.csv"} & set(os.listdir(root / "folds"))
    _, card = modelfile.load((root / "folds/model_FCNN").read_bytes())
    assert card["calibration"], "from the answers of the folds"


def test_folds_beside_a_test(runs):
    root, _ = runs
    said, report = job("train", "test", "FCNN", "--epochs", 1, "--folds", 2, "--output", "both", cwd=root)
    assert "\nCross-validation: accuracy " in said and "\nAccuracy " in said
    assert (report["photos"], report["cross_validation"]["photos"]) == (10, 30) and "folds" not in report


def test_interrupted_folds_are_resumed_to_the_same_result(runs, album, monkeypatch):
    """Ctrl-C in the third fold. The two finished ones are not trained again."""
    from scene.learn import loop
    from scene.signals import Stopped

    root, _ = runs
    train = loop.train
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise Stopped(2)
        return train(*arguments, **options)

    options = [album, "FCNN", "--epochs", 1, "--folds", 3]
    _, whole = job(*options, "--output", "whole", cwd=root)
    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(Stopped, match="The same command with --resume continues"):
        job(*options, "--output", "parts", cwd=root)
    assert (root / "parts/folds_FCNN").exists()
    with pytest.raises(UserError, match="folds_FCNN is the checkpoint of an interrupted run: add --resume"):
        job(*options, "--output", "parts", cwd=root)
    calls[:] = [1] * 10
    said, resumed = job(*options, "--output", "parts", "--resume", cwd=root)
    assert "Resumed after 2 of 3 folds." in said and len(calls) == 12
    for name in ("confusion", "cross_validation"):
        assert resumed[name] == whole[name]
    assert resumed["model"]["sha256"] == whole["model"]["sha256"]
    assert not (root / "parts/folds_FCNN").exists()


# Minutes


@pytest.mark.parametrize("mode", ["FCNN", "CNN"])
def test_minutes_become_whole_epochs_by_the_clock(mode):
    """By a clock on which a measured step takes 2 seconds in the first stage, then 4, 6 and 8."""
    from scene.learn import minutes, recipe

    network = MODES[mode].network(3, image_size=16)
    pixels, labels = noise(70, 16)
    settings = make_settings(epochs=7, learning_rate=0.1, batch_size=10, small_start=mode == "CNN")
    stages = recipe.stages_of(network, settings)
    costs = [2 * (1 + i) for i in range(len(stages))]
    steps = [cost for cost in costs for _ in range(20 // len(stages))]
    warm_ups = range(0, 20, 20 // len(stages))          # their duration, 500, must not count
    readings = iter(np.cumsum([x for i, step in enumerate(steps) for x in [500] * (i in warm_ups) + [step]]))
    epochs, each = minutes.plan_epochs(network, pixels, labels, settings, 1000, lambda: next(readings))
    assert next(readings, None) is None, "20 steps are measured"
    shares = [share for _, share in stages]
    assert sum(shares) == pytest.approx(1)
    assert each == pytest.approx(7 * sum(cost * share for cost, share in zip(costs, shares, strict=True)))
    assert epochs == int(1000 / each)
    network = MODES[mode].network(3, image_size=16)
    assert minutes.plan_epochs(network, pixels, labels, settings, 1, iter(range(1000)).__next__)[0] == 1


def test_the_run_that_minutes_plan_can_be_repeated_and_resumed(runs, monkeypatch):
    from scene.learn import minutes

    root, _ = runs
    monkeypatch.setattr(minutes, "plan_epochs", lambda *arguments, **more: (3, 20.0))
    said, planned = job("train", "test", "FCNN", "--minutes", 1, "--output", "minutes", cwd=root)
    assert "\nAn epoch takes about 20 s. The same run again: --epochs 3 instead of --minutes.\n" in said
    _, repeated = job("train", "test", "FCNN", "--epochs", 3, "--output", "epochs", cwd=root)
    assert planned["settings"] == repeated["settings"]
    assert planned["model"]["sha256"] == repeated["model"]["sha256"]
    monkeypatch.setattr(minutes, "plan_epochs", None)           # resuming measures nothing
    said, resumed = job("train", "test", "FCNN", "--minutes", 9, "--resume", "--output", "minutes", cwd=root)
    assert "This run is finished" in said and resumed["settings"]["epochs"] == 3


def test_an_interrupted_run_keeps_its_plan(runs, monkeypatch):
    from scene.learn import checkpoint, minutes
    from scene.signals import Stopped

    root, _ = runs
    monkeypatch.setattr(minutes, "plan_epochs", lambda *arguments, **more: (5, 0.1))
    monkeypatch.setattr(checkpoint, "PAUSE", 0)
    keep = checkpoint.Keeper.keep

    def stop(keeper, snapshot):
        keep(keeper, snapshot)
        if keeper.progress.epoch == 3:
            raise Stopped(2)

    options = ["train", "test", "FCNN", "--minutes", 1]
    _, whole = job(*options, "--output", "planned", cwd=root)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(checkpoint.Keeper, "keep", stop)
        job(*options, "--output", "stopped", cwd=root)
    monkeypatch.setattr(minutes, "plan_epochs", lambda *arguments, **more: (9, 0.1))
    said, resumed = job(*options, "--resume", "--output", "stopped", cwd=root)
    assert "Resumed in epoch 3 of 5" in said
    assert resumed["model"]["sha256"] == whole["model"]["sha256"]
