"""The main job in real processes, with good and bad input: what people see, and the exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene.modelfile import load

DATASETS = Path(__file__).parent.parent / "datasets"


def scene(*arguments, cwd=None, **options):
    return subprocess.run([sys.executable, "-m", "scene.main", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **options)


def make_photos(folder, classes=("dark", "light"), count=6):
    """Photos of noise, darker or lighter: a task that any network learns."""
    random = np.random.default_rng(len(str(folder)))
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(100, size=(20, 24, 3)) + 150 * k // (len(classes) - 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture
def data(tmp_path):
    make_photos(tmp_path / "train")
    make_photos(tmp_path / "test")
    return tmp_path


def test_the_main_job_to_the_letter(tmp_path):
    """cd datasets && python -m scene.main train test FCNN"""
    for name in ("train", "test"):
        (tmp_path / name).symlink_to(DATASETS / name)
    result = scene("train", "test", "FCNN", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads((tmp_path / "metrics_FCNN.json").read_text())
    assert report["accuracy"] >= 0.8
    assert report["photos"] == 200 and np.trace(report["confusion"]) == report["accuracy"] * 200
    assert list(report["classes"]) == ["grass", "ocean", "redcarpet", "road", "wheatfield"]
    assert 0 < report["seconds"] < 600
    assert load((tmp_path / "model_FCNN").read_bytes())[1]["classes"] == list(report["classes"])
    lines = result.stdout.splitlines()
    assert lines[0] == "train: 400 photos of 5 classes: grass 80, ocean 80, redcarpet 80, road 80, wheatfield 80"
    assert lines[2].startswith("Settings: epochs 40, learning rate ")
    assert lines[3].startswith("epoch 1/40: loss ")
    assert f"Accuracy {report['accuracy']:.1%} on 200 test photos (95 % interval " in result.stdout
    assert "always saying the commonest class: 20.0%" in result.stdout
    assert lines[-1].startswith("Model: ./model_FCNN, metrics: ./metrics_FCNN.json, total time: ")


def test_options_reach_the_training_and_the_model_is_tested_again(data):
    options = ["--epochs", 3, "--batch-size", 4, "--learning-rate", 0.01, "--image-size", 16, "--loss", "mse", "--seed", 7]
    result = scene("train", "test", "cnn", *options, "--output", "deep/out", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Settings: epochs 3, learning rate 0.01, batch size 4, loss mse, seed 7, device cpu" in result.stdout
    path = data / "deep/out/model_CNN"
    assert load(path.read_bytes())[1]["architecture"]["image_size"] == 16
    first = json.loads((data / "deep/out/metrics_CNN.json").read_text())

    before = path.read_bytes()
    result = scene("no such folder", "test", "CNN", "--load-model", path, "--output", "again", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "epoch" not in result.stdout
    again = json.loads((data / "again/metrics_CNN.json").read_text())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert path.read_bytes() == before and not (data / "again/model_CNN").exists()


def test_the_same_seed_gives_the_same_file(data):
    for output in "ab":
        scene("train", "test", "FCNN", "--epochs", 2, "--output", output, cwd=data, check=True)
    assert (data / "a/model_FCNN").read_bytes() == (data / "b/model_FCNN").read_bytes()


def test_six_classes_report_the_three_likeliest(tmp_path):
    for name in ("train", "test"):
        make_photos(tmp_path / name, "abcdef", 4)
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=tmp_path)
    assert "Right class among the three likeliest: " in result.stdout


def test_help_lists_the_exit_codes():
    result = scene("--help")
    assert result.returncode == 0
    for line in ("0    done", "1    something unforeseen", "2    a mistake in the command", "3    training diverged", "130  stopped"):
        assert line in result.stdout
    for option in ("epochs", "batch-size", "learning-rate", "image-size", "loss", "seed", "device", "output", "load-model"):
        assert f"--{option}" in result.stdout


@pytest.mark.parametrize("arguments, message", [
    (["train", "test"], "the following arguments are required: MODE"),
    (["train", "test", "RNN"], "argument MODE: invalid choice: 'RNN' (choose from FCNN, CNN)"),
    (["train", "test", "CNN", "--epochs", "0"], "argument --epochs: 0 is less than 1"),
    (["train", "test", "CNN", "--epochs", "many"], "argument --epochs: invalid whole number value: 'many'"),
    (["train", "test", "CNN", "--batch-size", "1"], "argument --batch-size: 1 is less than 2"),
    (["train", "test", "CNN", "--learning-rate", "-1"], "argument --learning-rate: -1 is less than 1e-09"),
    (["train", "test", "CNN", "--learning-rate", "nan"], "argument --learning-rate: nan is less than 1e-09"),
    (["train", "test", "CNN", "--image-size", "4"], "argument --image-size: 4 is not from 8 to 512"),
    (["train", "test", "CNN", "--loss", "l1"], "argument --loss: invalid choice: 'l1' (choose from cross-entropy, mse)"),
    (["train", "test", "CNN", "--device", "tpu"], "argument --device: invalid choice: 'tpu' (choose from cpu, cuda)"),
])
def test_a_mistake_in_the_command(arguments, message, data):
    result = scene(*arguments, cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].replace("'FCNN', 'CNN'", "FCNN, CNN").replace(
        "'cross-entropy', 'mse'", "cross-entropy, mse").replace("'cpu', 'cuda'", "cpu, cuda") == f"python -m scene.main: error: {message}"


def wrong(data, spoil):
    spoil(data)
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 2
    assert not (data / "model_FCNN").exists() and "epoch" not in result.stdout
    return result.stderr.splitlines()


def remove(path):
    for child in path.iterdir():
        remove(child) if child.is_dir() else child.unlink()
    path.rmdir()


@pytest.mark.parametrize("spoil, messages", [
    (lambda d: remove(d / "train"), ["train does not exist: check the path."]),
    (lambda d: remove(d / "train/dark"), [
        "train holds one class only, light: add a folder for what is not light.",
        "test/dark: train has no class of this name: rename the folder, or delete it."]),
    (lambda d: [remove(d / "train" / c) for c in ("dark", "light")], [
        "train holds no class folders: make a folder of photos for each class in it."]),
    (lambda d: [p.unlink() for p in (d / "train/dark").iterdir()], [
        "train/dark holds no photos: put JPEG, PNG or WebP files in it, or delete the folder."]),
    (lambda d: (d / "test/extra").mkdir(), [
        "test/extra holds no photos: put JPEG, PNG or WebP files in it, or delete the folder.",
        "test/extra: train has no class of this name: rename the folder, or delete it."]),
    (lambda d: (d / "test/dark").rename(d / "test/Dark"), ["test/Dark: in train this class is spelt dark: rename one of them."]),
    (lambda d: [(d / "train/dark/0.png").write_bytes(b""), (d / "test/light/1.png").write_text("<html>")], [
        "train/dark/0.png: the file is empty.",
        "test/light/1.png: not a JPEG, PNG or WebP photo but a web page."]),
], ids=["no folder", "one class", "no classes", "empty class", "unknown class", "spelling", "unreadable photos"])
def test_a_mistake_in_the_folders(spoil, messages, data):
    assert wrong(data, spoil) == messages


def test_a_class_without_test_photos_is_a_warning(data):
    remove(data / "test/dark")
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 0
    assert "Warning: test has no photos of dark: it is not tested." in result.stdout


def test_a_model_of_the_other_mode_is_refused(data):
    scene("train", "test", "FCNN", "--epochs", 1, cwd=data, check=True)
    result = scene("train", "test", "CNN", "--load-model", "model_FCNN", cwd=data)
    assert (result.returncode, result.stderr) == (2, "model_FCNN is a model of mode FCNN, not CNN: name the mode it has.\n")


@pytest.mark.parametrize("content, message", [
    (None, "model: No such file or directory.\n"),
    (b"\x80\x04 a pickle", "model is not a usable model: it is not a model file.\n"),
])
def test_no_model_to_load(content, message, data):
    if content:
        (data / "model").write_bytes(content)
    result = scene("train", "test", "CNN", "--load-model", "model", cwd=data)
    assert (result.returncode, result.stderr) == (2, message)


def test_a_file_in_place_of_the_output_folder(data):
    result = scene("train", "test", "FCNN", "--output", "test/dark/0.png", cwd=data)
    assert (result.returncode, result.stderr) == (2, "test/dark/0.png: File exists.\n")


def test_a_diverging_training_ends_with_3(data):
    result = scene("train", "test", "FCNN", "--learning-rate", 1e30, cwd=data)
    assert result.returncode == 3
    assert result.stderr.startswith("Training diverged in epoch ") and result.stderr.count("\n") == 1
    assert not (data / "model_FCNN").exists()


def test_ctrl_c_ends_with_130(data):
    process = subprocess.Popen([sys.executable, "-m", "scene.main", "train", "test", "FCNN", "--epochs", "1000000"], cwd=data,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not process.stdout.readline().startswith("epoch"):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the script command of Linux")
def test_a_terminal_gets_a_progress_bar(data):
    command = f"stty rows 40 cols 110; {sys.executable} -m scene.main train test FCNN --epochs 2"
    result = subprocess.run(["script", "-qec", command, "/dev/null"], cwd=data, capture_output=True, text=True)
    assert result.returncode == 0
    for part in ("epoch 2/2: loss ", ", training accuracy ", "100 %, ", "photo/s, 00:00 left"):
        assert part in result.stdout


def test_an_unforeseen_error_is_a_sentence_and_a_log(data):
    code = ("import sys; from scene import main, command, folder; folder.scan = lambda path: 1 / 0\n"
            "sys.exit(command.run(main.run, main.parse(sys.argv[1:])))")
    result = subprocess.run([sys.executable, "-c", code, "train", "test", "FCNN"], cwd=data, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("Something unforeseen went wrong (ZeroDivisionError: division by zero). The details are in ")
    log = Path(result.stderr.split(" are in ")[1].strip().rstrip("."))
    assert "ZeroDivisionError" in log.read_text()
    log.unlink()


def test_the_first_line_comes_at_once(data):
    """Before torch is imported: its import takes longer than everything that the line needs."""
    code = ("import sys, builtins; from scene import main, command\n"
            "out = builtins.print\n"
            "def say(*words, **names):\n    out('torch' in sys.modules, *words, **names)\n"
            "builtins.print = say\n"
            "sys.exit(command.run(main.run, main.parse(sys.argv[1:])))")
    command = [sys.executable, "-c", code, "train", "test", "FCNN", "--epochs", "1"]
    lines = subprocess.run(command, cwd=data, capture_output=True, text=True).stdout.splitlines()
    assert lines[0].startswith("False train: 12 photos") and lines[-1].startswith("True Model: ")
