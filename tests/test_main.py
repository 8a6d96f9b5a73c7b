"""The main job in real processes, with good and bad input: its output, its files and its exit codes."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene.answer.modelfile import load
from scene.learn.recipe import FINE_TUNING_PHOTOS
from scene.models import MODES
from tests.jobs import main_job, make_photos, start_job, unprivileged

DATASETS = Path(__file__).parent.parent / "datasets"


@pytest.fixture
def data(tmp_path):
    make_photos(tmp_path / "train")
    make_photos(tmp_path / "test")
    return tmp_path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def changed_job(change, *arguments, cwd):
    """The main job in a Python that executes the code `change` first."""
    code = ("import sys\nfrom scene import errors, main\n"
            f"{change}\nsys.exit(errors.run(main.run, main.parse(sys.argv[1:])))")
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_main_job_to_the_letter(tmp_path):
    """cd datasets && python -m scene.main train test FCNN"""
    for name in ("train", "test"):
        (tmp_path / name).symlink_to(DATASETS / name)
    result = main_job("train", "test", "FCNN", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads((tmp_path / "metrics_FCNN.json").read_text())
    assert report["accuracy"] >= 0.8
    assert report["photos"] == 200 and np.trace(report["confusion"]) == report["accuracy"] * 200
    assert list(report["classes"]) == ["grass", "ocean", "redcarpet", "road", "wheatfield"]
    assert 0 < report["seconds"] < 600
    assert load((tmp_path / "model_FCNN").read_bytes())[1]["classes"] == list(report["classes"])
    lines = result.stdout.splitlines()
    assert lines[0] == ("train: 400 photos of 5 classes: "
                        "grass 80, ocean 80, redcarpet 80, road 80, wheatfield 80")
    assert lines[2].startswith("Settings: mode FCNN, image size 24, epochs 80, learning rate ")
    assert lines[3] == "Labels are smoothed, so the smallest possible loss is 0.39."
    assert lines[4].startswith("epoch 1/80: loss ")
    assert f"Accuracy {report['accuracy']:.1%} on 200 test photos (95 % interval " in result.stdout
    assert "always guessing the most common class: 20.0%" in result.stdout
    assert lines[-3].startswith("Model: ./model_FCNN, metrics: ./metrics_FCNN.json, "
                                "report: ./report_FCNN.html, total time: ")
    assert lines[-2].startswith("Each class has 80 training photos on average. More of them would help most")
    assert lines[-1] == "Next: python -m scene.predict PHOTO --model model_FCNN"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1000 photos to train on, of which 100 are held out, and the run that was trained on them."""
    folder = tmp_path_factory.mktemp("many")
    make_photos(folder / "train", ("dark", "light", "white"), 334)
    make_photos(folder / "test", ("dark", "light", "white"), 20)
    result = main_job("train", "test", "FCNN", "--epochs", 2, "--output", "out", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


def test_photos_are_held_out_to_fit_the_calibration(many):
    folder, text = many
    assert "\nHeld out for calibration: 100 photos. Trained on: the other 902.\n" in text
    report = json.loads((folder / "out/metrics_FCNN.json").read_text())
    counts = [int(value.split()[0]) for name, value in report["run"].items() if name.startswith("class ")]
    assert sum(counts) == 902 and max(counts) - min(counts) <= 1
    found = report["calibration"]
    low, high = found["error_interval"]
    assert (f"\nSure about {found['answered']:.1%} of the test photos; of these, {found['error']:.1%} are "
            f"wrong (95 % interval {low:.1%} to {high:.1%}; 10 % promised).\nExpected calibration error "
            f"{found['ece']:.1%} ({found['ece_before']:.1%} before calibration)\n") in text
    assert sum(row["photos"] for row in found["reliability"]) == report["photos"] == 60
    sure = found["answered"] * 60
    assert sure + sum(found["reasons"].values()) == pytest.approx(60)
    card = load((folder / "out/model_FCNN").read_bytes())[1]
    assert card["calibration"]["error"] == np.float32(0.1)
    assert card["calibration"]["temperature"] == np.float32(found["temperature"])


def test_a_finished_run_gets_another_promise_without_being_trained(many, tmp_path):
    folder, _ = many
    shutil.copytree(folder / "out", tmp_path / "out")
    before = (tmp_path / "out/model_FCNN").read_bytes()
    same = ["train", "test", "FCNN", "--epochs", 2, "--output", tmp_path / "out", "--resume"]
    result = main_job(*same, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "") and "nothing is trained" in result.stdout
    assert (tmp_path / "out/model_FCNN").read_bytes() == before

    result = main_job(*same, "--error", 0.3, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert "; 30 % promised)." in result.stdout and "is now" in result.stdout
    (old, old_card), (new, new_card) = map(load, (before, (tmp_path / "out/model_FCNN").read_bytes()))
    np.testing.assert_array_equal(old.params, new.params)
    changed = {name for name, array in new_card["calibration"].items()
               if (array != old_card["calibration"][name]).any()}
    assert changed <= {"error", "sure"} and "error" in changed

    only_test = ["--load-model", "out/model_FCNN", "--output", tmp_path]
    result = main_job("none", "test", "FCNN", *only_test, cwd=folder)
    assert result.returncode == 0 and "; 10 % promised)." in result.stdout
    evaluation, metrics = (json.loads(path.read_text()) for path in (
        tmp_path / "evaluation_FCNN.json", folder / "out/metrics_FCNN.json"))
    assert evaluation["calibration"] == metrics["calibration"]


def test_a_folder_called_scene_is_not_in_the_way(data):
    """As there is next to a clone."""
    (data / "scene").mkdir()
    result = main_job("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")


def test_options_reach_the_training_and_the_model_is_tested_again(data):
    options = ["--epochs", 3, "--batch-size", 4, "--learning-rate", 0.01, "--image-size", 16, "--loss", "mse",
               "--seed", 7, "--precision", "bfloat16", "--widths", "8,16,24", "--terms", "For tests.",
               "--held-out", "test"]
    result = main_job("train", "test", "cnn", *options, "--output", "deep/out", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert ("Settings: mode CNN, image size 16, epochs 3, learning rate 0.01, batch size 4, shard 64, "
            "crop area 0.5, crop growth 0, grey 0.1, small start True, loss mse, balanced False, seed 7, "
            "device cpu, precision bfloat16, momentum 0.9, decay 0.0005, norm rate 4.0, "
            "widths [8, 16, 24]\n") in result.stdout
    path = data / "deep/out/model_CNN"
    card = load(path.read_bytes())[1]
    assert card["architecture"] == {"image_size": 16, "widths": [8, 16, 24]}
    assert card["terms"] == "For tests." and "calibration" in card
    first = json.loads((data / "deep/out/metrics_CNN.json").read_text())

    before = path.read_bytes()
    options = ["--load-model", path, "--output", "again", "--epochs", 9, "--seed", 1]
    result = main_job("no such folder", "test", "CNN", *options, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Note: nothing is trained, so --epochs, --seed has no effect.\n")
    assert "\nepoch" not in result.stdout
    again = json.loads((data / "again/evaluation_CNN.json").read_text())
    assert again["settings"] == {"mode": "CNN", "image_size": 16} and again["model"]["path"] == str(path)
    assert again["folders"] == {"test": str(data / "test")}
    for name in again.keys() - {"settings", "folders", "model", "seconds", "command"}:
        assert again[name] == first[name], name
    assert again["model"]["sha256"] == first["model"]["sha256"] == sha256(before)
    assert path.read_bytes() == before
    assert sorted(os.listdir(data / "again")) == ["evaluation_CNN.json", "report_CNN.html"]


def test_start_from_a_model_of_other_classes(data):
    for name in ("more", "others"):
        make_photos(data / name, ("black", "grey", "white"))
    options = ["--epochs", 2, "--image-size", 24]
    assert main_job("train", "test", "CNN", *options, "--output", "teacher", cwd=data).returncode == 0
    start_from = ["--start-from", "teacher/model_CNN"]
    result = main_job("more", "others", "CNN", *start_from, "--epochs", 1, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    # The teacher's image size, and a smaller learning rate.
    assert "Settings: mode CNN, image size 24, epochs 1, learning rate 0.0021," in result.stdout
    hash_of_teacher = sha256((data / "teacher/model_CNN").read_bytes())
    assert result.stdout.startswith(f"Training starts from teacher/model_CNN ({hash_of_teacher[:12]}). Other")
    (teacher, _), (pupil, card) = (load((data / name).read_bytes())
                                   for name in ("teacher/model_CNN", "model_CNN"))
    assert card["started_from"] == {"sha256": hash_of_teacher, "terms": ""}
    np.testing.assert_array_equal(pupil.layers[0].mean, teacher.layers[0].mean)     # of the teacher's photos
    change = np.abs(pupil.layers[1].w - teacher.layers[1].w).max()
    assert 0 < change < 0.02, "one gentle step away"

    # The head alone: no epochs, and all other weights are the teacher's.
    result = main_job("more", "others", "CNN", *start_from, "--head-only", "--output", "head", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Settings:" not in result.stdout and "\nepoch" not in result.stdout
    pupil, _ = load((data / "head/model_CNN").read_bytes())
    assert all(np.array_equal(array, teacher.arrays()[name]) for name, array in pupil.arrays().items()
               if name.endswith(".w") and name != "17.w")
    report = json.loads((data / "head/metrics_CNN.json").read_text())
    assert report["history"] == [] and report["settings"]["epochs"] == 0
    assert report["run"]["start from"] == hash_of_teacher[:12]
    assert report["accuracy"] == 1
    assert sorted(os.listdir(data / "head")) == ["metrics_CNN.json", "model_CNN", "report_CNN.html"]

    # The norms keep the teacher's statistics. With so few photos, a head alone is the default.
    assert all(np.array_equal(array, teacher.arrays()[name]) for name, array in pupil.arrays().items()
               if name.endswith((".mean", ".var")))
    result = main_job("more", "others", "CNN", *start_from, "--output", "few", cwd=data)
    assert (f"Only the last layer is trained, the default with fewer than {FINE_TUNING_PHOTOS} training "
            "photos per class (here 6 on average). To train all layers: --epochs 20.\n") in result.stdout
    assert (data / "few/model_CNN").read_bytes() == (data / "head/model_CNN").read_bytes()
    # With --minutes all layers are trained, also where a head alone was finished before.
    options = ["--minutes", 0.01, "--resume", "--output", "few"]
    result = main_job("more", "others", "CNN", *start_from, *options, cwd=data)
    assert re.search(r"epochs [1-9]\d*, learning rate 0.0021,", result.stdout)
    assert "few/model_CNN is of another run (epochs was 0" in result.stdout

    result = main_job("more", "others", "FCNN", *start_from, cwd=data)
    assert result.returncode == 2
    assert "teacher/model_CNN is a model of mode CNN, not FCNN: name the mode it has." in result.stderr


def test_the_same_seed_gives_the_same_file(data):
    for output in "ab":
        main_job("train", "test", "FCNN", "--epochs", 2, "--output", output, cwd=data, check=True)
    assert (data / "a/model_FCNN").read_bytes() == (data / "b/model_FCNN").read_bytes()


def test_six_classes_report_the_three_likeliest(tmp_path):
    for name in ("train", "test"):
        make_photos(tmp_path / name, "abcdef", 4)
    result = main_job("train", "test", "FCNN", "--epochs", 1, cwd=tmp_path)
    assert "\nTop-3 accuracy " in result.stdout


def test_help_lists_the_exit_codes():
    result = main_job("--help")
    assert result.returncode == 0
    for line in ("0    done", "1    an unexpected failure", "2    a mistake in the command",
                 "3    training diverged", "130  stopped by"):
        assert line in result.stdout
    for option in ("epochs", "batch-size", "learning-rate", "image-size", "widths", "loss", "seed", "terms",
                   "device", "output", "load-model", "skip-bad", "held-out"):
        assert f"--{option}" in result.stdout


@pytest.mark.parametrize("arguments, message", [
    (["train"], "the following arguments are required: MODE"),
    (["train", "test"], f"argument MODE: invalid choice: 'test' (choose from {', '.join(MODES)})"),
    (["train", "test", "more", "CNN"],
     "too many folders (3): name PHOTOS, or TRAIN and TEST, and then the MODE"),
    (["train", "test", "CNN", "--split", "list.csv"],
     "--split and --test-share divide a single folder: leave TEST out"),
    (["train", "CNN", "--split", "list.csv", "--test-share", "0.3"],
     "--split says which photos to test on: leave --test-share out"),
    (["train", "CNN", "--held-out", "more", "--folds", "3"],
     "--folds already fits the calibration: leave --held-out out"),
    (["train", "CNN", "--widths", "32,x"], "argument --widths: invalid list of widths value: '32,x'"),
    (["train", "CNN", "--widths", "32,0"], "argument --widths: 0 is not from 1 to 100000"),
    (["train", "CNN", "--epochs", "3", "--minutes", "3"],
     "--minutes finds the number of epochs: leave one of the two out"),
    (["train", "CNN", "--folds", "1"], "argument --folds: 1 is not from 2 to 100"),
    (["train", "test", "TREE"], f"argument MODE: invalid choice: 'TREE' (choose from {', '.join(MODES)})"),
    (["train", "test", "CNN", "--epochs", "0"], "argument --epochs: 0 is less than 1"),
    (["train", "test", "CNN", "--epochs", "many"], "argument --epochs: invalid whole number value: 'many'"),
    (["train", "test", "CNN", "--batch-size", "1"], "argument --batch-size: 1 is less than 2"),
    (["train", "test", "CNN", "--learning-rate", "-1"], "argument --learning-rate: -1 is less than 1e-09"),
    (["train", "test", "CNN", "--learning-rate", "nan"], "argument --learning-rate: nan is less than 1e-09"),
    (["train", "test", "CNN", "--error", "0"], "argument --error: 0 is not from 0.001 to 0.999"),
    (["train", "test", "CNN", "--image-size", "7"], "argument --image-size: 7 is not from 8 to 512"),
    (["train", "test", "CNN", "--image-size", "513"], "argument --image-size: 513 is not from 8 to 512"),
    (["train", "test", "CNN", "--loss", "l1"],
     "argument --loss: invalid choice: 'l1' (choose from cross-entropy, mse)"),
    (["train", "test", "CNN", "--from-scratch", "--head-only"],
     "--head-only needs a trained model to start from: leave --from-scratch out"),
    (["train", "test", "CNN", "--start-from", "model", "--from-scratch"],
     "argument --from-scratch: not allowed with argument --start-from"),
    (["train", "test", "CNN", "--device", "tpu"],
     "argument --device: invalid choice: 'tpu' (choose from cpu, cuda)"),
])
def test_a_mistake_in_the_command(arguments, message, data):
    result = main_job(*arguments, cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    said, choose, choices = result.stderr.splitlines()[-1].partition(" (choose from ")
    unquoted = choices.replace("'", "")             # Python 3.11 quotes the choices, later versions do not
    assert said + choose + unquoted == f"python -m scene.main: error: {message}"


# Mistakes in the folders


def refused(data, spoil):
    """Spoils the folders and returns the lines that the refused run prints to stdout and stderr."""
    spoil(data)
    result = main_job("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 2
    assert not (data / "model_FCNN").exists() and "epoch" not in result.stdout
    return result.stdout.splitlines(), result.stderr.splitlines()


def remove(path):
    for child in path.iterdir():
        remove(child) if child.is_dir() else child.unlink()
    path.rmdir()


def no_folder(data):
    remove(data / "train")


def one_class(data):
    remove(data / "train/dark")


def another_spelling(data):
    (data / "test/dark").rename(data / "test/Dark")


def unreadable_photos(data):
    (data / "train/dark/0.png").write_bytes(b"")
    (data / "test/light/1.png").write_text("<html>")


def folder_and_photo(data):
    (data / "train/sky").mkdir()
    (data / "test/light/1.png").write_bytes(b"")


@pytest.mark.parametrize("spoil, messages", [
    (no_folder, ["error     train: no such folder: check the path."]),
    (one_class, [
        "error     train: only one class, light: add a folder of photos that are not light.",
        "error     test/dark: train has no class of this name: rename the folder, or move it elsewhere."]),
    (another_spelling, ["error     test/Dark: in train this class is spelt dark: rename one of them."]),
    (unreadable_photos, [
        "error     train/dark/0.png: the file is empty.",
        "error     test/light/1.png: not a JPEG, PNG or WebP photo but a web page.",
        "With --skip-bad, photos that cannot be used are left out: 2 of them."]),
    (folder_and_photo, [
        "error     train/sky: no JPEG, PNG or WebP photos in it: add some, or move the folder elsewhere.",
        "error     test/light/1.png: the file is empty.",
        "warning   test/sky: no such folder, so this class is not tested.",
        "With --skip-bad, photos that cannot be used are left out: 1 of them."]),
])
def test_a_mistake_in_the_folders(spoil, messages, data):
    assert refused(data, spoil)[1] == messages


def nothing_usable(data):
    for path in (data / "train/dark").iterdir():
        path.rename(path.with_suffix(".HEIC"))
    for path in (data / "test").glob("*/*"):
        path.rename(data / "test" / f"{path.parent.name}{path.name}")
    for name in ("dark", "light"):
        (data / "test" / name).rmdir()
    (data / "train/light/a.\x1b[31m").touch()


def test_what_is_found_and_passed_over_is_said_before_what_is_wrong(data):
    found, messages = refused(data, nothing_usable)
    assert found == [
        "train: 6 photos of 2 classes: dark 0, light 6",
        r"  passed over: 1 .\x1b[31m file, 6 .heic files",
        "test: 0 photos of 0 classes: none",
    ]
    assert messages == [
        "error     train/dark: no JPEG, PNG or WebP photos in it, but 6 .heic files: export them as JPEG.",
        "error     test: it has 12 photos, but no class folders: make one for each class, or name the folder "
        "above it.",
        "warning   train: passed over 6 HEIC photos: export them as JPEG "
        "(iPhones take JPEG if their camera is set to Most Compatible).",
    ]


def test_a_class_that_cannot_be_shown_as_it_is(data):
    found, messages = refused(data, lambda data: (data / "train/dark").rename(data / "train/dark\n"))
    assert found[0] == r"train: 12 photos of 2 classes: dark\n 6, light 6"
    assert messages[0] == (r"error     train/dark\n: a class name must be printable, without backslashes, "
                           "and at most 255 bytes: rename the folder.")
    assert r"warning   test/dark\n: no such folder, so this class is not tested." in messages


PRINT_READS = """
from scene.answer import modelfile
load = modelfile.load

def print_read(data):
    print("read")
    return load(data)

modelfile.load = print_read
"""


def test_mistakes_in_the_folder_for_a_trained_model(data):
    """Classes and photos are reported together, and the model is read once."""
    main_job("train", "test", "FCNN", "--epochs", 1, cwd=data, check=True)
    arguments = ["none", "test", "FCNN", "--load-model", "model_FCNN"]
    result = changed_job(PRINT_READS, *arguments, cwd=data)
    assert result.returncode == 0 and result.stdout.split().count("read") == 1

    (data / "test/dark").rename(data / "test/Dark")
    (data / "test/Dark/0.png").write_bytes(b"")
    result = main_job(*arguments, cwd=data)
    assert result.returncode == 2 and "test: 12 photos of 2 classes: Dark 6, light 6\n" in result.stdout
    assert result.stderr.splitlines() == [
        "error     test/Dark: in the model this class is spelt dark: rename one of them.",
        "error     test/Dark/0.png: the file is empty.",
        "With --skip-bad, photos that cannot be used are left out: 1 of them."]


@pytest.mark.parametrize("copied, are", [(1, "is also a training photo"), (6, "are also training photos")])
def test_test_photos_that_are_in_train_are_named_beside_the_accuracy(copied, are, data):
    for i in range(copied):
        shutil.copy(data / "train/dark" / f"{i}.png", data / "test/dark" / f"{i}.png")
    result = main_job("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 0
    _, last = result.stdout.split("\nAccuracy ")
    assert (f"\nThis accuracy is too high: {copied} of the 12 test photos {are}. Keep each photo in only one "
            "of the two folders.\n") in last
    assert json.loads((data / "metrics_FCNN.json").read_text())["leaks"] == copied


@pytest.mark.parametrize("test", ["train", "./train/", "linked", "train/../train"])
def test_one_folder_as_train_and_test_is_an_error(test, data):
    (data / "linked").symlink_to("train")
    result = main_job("train", test, "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 2 and not (data / "model_FCNN").exists()
    assert result.stderr == (f"error     {test}: the same folder as train: test on photos that the network "
                             "is not "
                             "trained on.\n")


def test_few_photos_the_last_lines_say_what_helps_and_what_is_next(data):
    result = main_job("train", "test", "FCNN", "--epochs", 1, "--output", "my models", cwd=data)
    *_, files, advice, following = result.stdout.splitlines()
    assert files.startswith("Model: my models/model_FCNN, metrics: my models/metrics_FCNN.json, report: my")
    start = re.fullmatch(r"Each class has 6 training photos on average\. More of them would help most, and "
                         r"then (--start-from pretrained)\.", advice)[1]
    assert following == "Next: python -m scene.predict PHOTO --model 'my models/model_FCNN'"
    shell = following.removeprefix("Next: python").replace("PHOTO", "test/dark/0.png")
    shell = sys.executable + shell
    assert subprocess.run(shell, shell=True, cwd=data, capture_output=True).returncode == 0
    again = main_job("train", "test", "FCNN", "--epochs", 1, *start.split(), "--output", "b", cwd=data)
    assert again.returncode == 0 and again.stdout.splitlines()[-2].endswith(" More of them would help most.")


NAMES = {
    "ordinary": [f"class number {i}" for i in range(3000)],
    "Chinese": [chr(0x4e00 + i) * 40 for i in range(1000)],
    "long": [f"{i:04}" + "é" * 125 for i in range(4200)],
}


@pytest.mark.parametrize("kind", NAMES)
def test_thousands_of_classes_are_trained_and_opened_or_refused_beforehand(kind, tmp_path):
    """A photo of each. The names must fit into the model file, and the file is opened before the test."""
    for part in ("train", "test"):
        for i, name in enumerate(NAMES[kind]):
            (tmp_path / part / name).mkdir(parents=True)
            pixel = (i % 256, i // 256, len(part))
            Image.new("RGB", (1, 1), pixel).save(tmp_path / part / name / "a.png")
    result = main_job("train", "test", "FCNN", "--epochs", 1, "--image-size", 8, cwd=tmp_path)
    if kind == "long":
        assert result.returncode == 2 and "epoch" not in result.stdout
        assert result.stderr.endswith(
            "FCNN cannot be trained, since its model file could not be read back: the names of its 4200 "
            "classes "
            "take 1070999 bytes, but at most 1048576 are read: shorten the names.\n")
    else:
        assert result.returncode == 0, result.stderr
        _, card = load((tmp_path / "model_FCNN").read_bytes())
        assert card["classes"] == sorted(os.listdir(tmp_path / "test"))
        assert max(map(len, result.stdout.splitlines())) < 6000 and len(result.stdout.splitlines()) < 100
        photo = next((tmp_path / "test").glob("*/a.png"))
        command = [sys.executable, "-m", "scene.predict", photo, "--model", "model_FCNN"]
        said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert said.returncode == 0 and len(said.stdout.splitlines()) == 6


def test_a_class_without_test_photos_is_a_warning(data):
    remove(data / "test/dark")
    result = main_job("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 0
    assert "warning   test/dark: no such folder, so this class is not tested.\n" in result.stdout


# Mistakes in models and networks


def test_a_model_of_the_other_mode_is_refused(data):
    main_job("train", "test", "FCNN", "--epochs", 1, cwd=data, check=True)
    result = main_job("train", "test", "CNN", "--load-model", "model_FCNN", cwd=data)
    message = "model_FCNN is a model of mode FCNN, not CNN: name the mode it has.\n"
    assert (result.returncode, result.stderr) == (2, message)


@pytest.mark.parametrize("content, message", [
    (None, "model: No such file or directory.\n"),
    (b"\x80\x04 a pickle", "model is not a usable model: it is not a model file.\n"),
])
def test_no_model_to_load(content, message, data):
    if content:
        (data / "model").write_bytes(content)
    result = main_job("train", "test", "CNN", "--load-model", "model", cwd=data)
    assert (result.returncode, result.stderr) == (2, message)


NEW_NETWORK = """
from scene.models import MODES
from scene.nn.activation import ReLU
from scene.nn.layer import Network
from scene.nn.linear import Flatten, Linear
from scene.nn.normalize import Normalize

class Unnormalized(Network):
    def __init__(self, classes, image_size=8):
        self.image_size = image_size
        super().__init__(Flatten(), Linear(image_size * image_size * 3, classes))

class Flexible(Network):
    def __init__(self, classes, image_size=8, activation=ReLU):
        self.image_size = image_size
        inputs = image_size * image_size * 3
        super().__init__(Normalize(), Flatten(), Linear(inputs, 9), activation(), Linear(9, classes))

"""


@pytest.mark.parametrize("name, message", [
    ("Unnormalized", "Unnormalized begins with Flatten: begin with Normalize, which training fits to the "
                     "photos' colours.\n"),
    ("Flexible", "NEW cannot be trained, since its model file could not be read back: a model file cannot "
                 "hold the argument activation: a network's arguments must be numbers, lists of widths or "
                 "short words, and its image size from 8 to 1024.\n"),
])
def test_a_network_that_cannot_be_trained_or_saved_is_refused_before_training(name, message, data):
    change = f"{NEW_NETWORK}MODES['NEW'] = MODES['FCNN']._replace(network={name})"
    result = changed_job(change, "train", "test", "NEW", cwd=data)
    assert (result.returncode, result.stderr) == (2, message)
    assert result.stdout.startswith("train: 12 photos") and "epoch" not in result.stdout
    assert sorted(os.listdir(data)) == ["test", "train"]


# Output that cannot be written


def test_a_file_in_place_of_the_output_folder(data):
    result = main_job("train", "test", "FCNN", "--output", "test/dark/0.png", cwd=data)
    assert (result.returncode, result.stderr) == (2, "test/dark/0.png: File exists.\n")


def test_a_folder_where_the_model_belongs_is_found_before_training(data):
    (data / "model_FCNN").mkdir()
    result = main_job("train", "test", "FCNN", cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("./model_FCNN is a folder, but Scene writes a file there: "
                             "choose another --output.\n")


def test_a_folder_that_cannot_be_written_to_is_found_before_training(data):
    (data / "locked").mkdir(mode=0o500)
    command = [sys.executable, "-m", "scene.main", "train", "test", "FCNN", "--output", "locked"]
    result = subprocess.run(unprivileged(command), cwd=data, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "locked cannot be written to (Permission denied): choose another --output.\n"


def test_a_reader_that_has_had_enough_is_no_error(data):
    shell = f"{sys.executable} -m scene.main train test FCNN --epochs 3 | head -1"
    result = subprocess.run(["bash", "-c", shell], cwd=data, capture_output=True, text=True)
    assert result.stdout.startswith("train: 12 photos")
    assert result.stderr == "The output cannot be written (Broken pipe), so Scene goes on without it.\n"
    assert (data / "model_FCNN").exists() and (data / "metrics_FCNN.json").exists()


def test_a_full_disk_under_the_log_is_no_reason_to_fail(data):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "scene.main", "train", "test", "FCNN", "--epochs", "1"]
        result = subprocess.run(command, cwd=data, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0 and (data / "metrics_FCNN.json").exists()
    assert result.stderr == ("The output cannot be written (No space left on device), so Scene goes on "
                             "without "
                             "it.\n")


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("module", ["main", "predict"])
def test_a_terminal_that_is_closed_ends_the_command_with_129(module, ignored, data):
    """Its output is gone, too, which must not hide the exit code. Under nohup a training goes on."""
    import pty

    ours, theirs = pty.openpty()
    main = ["train", "test", "FCNN", "--epochs", "500" if ignored else "1000000", "--image-size", "8"]
    photos = [str(path) for path in sorted((data / "train").glob("*/*.png"))] * 400
    command = [sys.executable, "-m", f"scene.{module}", *(main if module == "main" else photos)]

    def on_the_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    process = subprocess.Popen(command, cwd=data, stdin=theirs, stdout=theirs, stderr=theirs,
                               preexec_fn=on_the_terminal)
    os.close(theirs)
    said = b""
    while (b"smoothed" if module == "main" else b"%") not in said:
        said += os.read(ours, 1000)
    while module == "main" and not (data / "checkpoint_FCNN").exists():
        assert process.poll() is None
    os.close(ours)
    code = process.wait(timeout=60)
    if module == "main" and ignored:
        assert code == 0 and (data / "model_FCNN").exists()
    elif module == "main":
        assert code == 129 and (data / "checkpoint_FCNN").exists()
    else:
        assert code == (2 if ignored else 129)


def test_a_closed_output_is_no_reason_to_fail(data):
    shell = f"{sys.executable} -m scene.main train test FCNN --epochs 1 >&- 2>&-"
    result = subprocess.run(["bash", "-c", shell], cwd=data)
    assert result.returncode == 0 and (data / "model_FCNN").exists()


# How a run ends, and its progress


@pytest.mark.parametrize("epochs", [1, 20])
def test_a_diverging_training_ends_with_3(epochs, data):
    """After a single epoch only the last step's weights show it."""
    options = ["--learning-rate", 1e30, "--epochs", epochs]
    result = main_job("train", "test", "FCNN", *options, cwd=data)
    assert result.returncode == 3
    assert result.stderr.startswith("Training diverged in ") and result.stderr.count("\n") == 1
    assert not (data / "model_FCNN").exists()


def test_cuda_where_there_is_none(data):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = main_job("train", "test", "FCNN", "--device", "cuda", cwd=data, env=environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("--device cuda: torch finds no CUDA device here. "
                             "Leave the option out to train on the CPU.\n")


def test_ctrl_c_ends_with_130(tmp_path):
    """In a terminal it reaches every process, here in the middle of a step of two processes."""
    for name in ("train", "test"):
        make_photos(tmp_path / name, count=40)
    process = start_job("train", "test", "FCNN", "--epochs", 1000000, cwd=tmp_path, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors.startswith("\nStopped in epoch ") and errors.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_FCNN", "test", "train"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the script command of Linux")
def test_a_terminal_gets_a_progress_bar(data):
    shell = f"stty rows 40 cols 110; {sys.executable} -m scene.main train test FCNN --epochs 2"
    command = ["script", "-qec", shell, "/dev/null"]
    result = subprocess.run(command, cwd=data, capture_output=True, text=True)
    assert result.returncode == 0
    for part in ("epoch 2/2: loss ", ", training accuracy ", "100 %, ", "photo/s, 00:00 left"):
        assert part in result.stdout


def test_an_unforeseen_error_is_a_sentence_and_a_log(data):
    change = "from scene.photos import folder\nfolder.scan = lambda path: 1 / 0"
    result = changed_job(change, "train", "test", "FCNN", cwd=data)
    assert result.returncode == 1
    sentence, _, path = result.stderr.partition(" The traceback is in ")
    assert sentence == "Scene failed unexpectedly (ZeroDivisionError: division by zero)."
    assert path.endswith(".log.\n") and path.count("\n") == 1
    log = Path(path.removesuffix(".\n"))
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


PRINT_WHETHER_TORCH = """
import builtins
out = builtins.print

def print_with_torch(*words, **options):
    out("torch" in sys.modules, *words, **options)

builtins.print = print_with_torch
"""


def test_the_first_line_comes_at_once(data):
    """Before torch is imported: its import takes longer than everything that the line needs."""
    result = changed_job(PRINT_WHETHER_TORCH, "train", "test", "FCNN", "--epochs", "1", cwd=data)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("False train: 12 photos") and lines[-1].startswith("True Next: ")
