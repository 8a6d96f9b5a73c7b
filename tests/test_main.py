"""The main job in real processes, with good and bad input: what people see, and the exit codes."""

import json
import os
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
    assert lines[2].startswith("Settings: mode FCNN, image size 24, epochs 80, learning rate ")
    assert lines[3].startswith("epoch 1/80: loss ")
    assert f"Accuracy {report['accuracy']:.1%} on 200 test photos (95 % interval " in result.stdout
    assert "always saying the commonest class: 20.0%" in result.stdout
    assert lines[-1].startswith("Model: ./model_FCNN, metrics: ./metrics_FCNN.json, total time: ")


def test_a_folder_called_scene_is_not_in_the_way(data):
    """As there is next to a clone."""
    (data / "scene").mkdir()
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")


def test_options_reach_the_training_and_the_model_is_tested_again(data):
    options = ["--epochs", 3, "--batch-size", 4, "--learning-rate", 0.01, "--image-size", 16, "--loss", "mse", "--seed", 7]
    result = scene("train", "test", "cnn", *options, "--output", "deep/out", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert ("Settings: mode CNN, image size 16, epochs 3, learning rate 0.01, batch size 4, shard 64, crop area 0.5, crop growth 0, "
            "grey 0.1, small start True, loss mse, seed 7, device cpu, momentum 0.9, decay 0.0005, norm rate 4.0\n") in result.stdout
    path = data / "deep/out/model_CNN"
    assert load(path.read_bytes())[1]["architecture"]["image_size"] == 16
    first = json.loads((data / "deep/out/metrics_CNN.json").read_text())

    before = path.read_bytes()
    result = scene("no such folder", "test", "CNN", "--load-model", path, "--output", "again", "--epochs", 9, "--seed", 1, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Note: nothing is trained, so --epochs, --seed will have no effect.\n")
    assert "\nepoch" not in result.stdout
    again = json.loads((data / "again/metrics_CNN.json").read_text())
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert path.read_bytes() == before and not (data / "again/model_CNN").exists()


def test_start_from_a_model_of_other_classes(data):
    make_photos(data / "more", ("black", "grey", "white"))
    options = ["--epochs", 2, "--image-size", 24]
    assert scene("train", "test", "CNN", *options, "--output", "teacher", cwd=data).returncode == 0
    result = scene("more", "more", "CNN", "--start-from", "teacher/model_CNN", "--epochs", 1, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Settings: mode CNN, image size 24, epochs 1, learning rate 0.015," in result.stdout      # the teacher's size, smaller steps
    assert "Reused: 37 arrays, 409286 numbers. Starting anew: 17.b, 17.w.\n" in result.stdout
    teacher, pupil = (load((data / name).read_bytes())[0] for name in ("teacher/model_CNN", "model_CNN"))
    np.testing.assert_array_equal(pupil.layers[0].mean, teacher.layers[0].mean)             # of the teacher's photos
    change = np.abs(pupil.layers[1].w - teacher.layers[1].w).max()
    assert 0 < change < 0.1, "one gentle step away"

    result = scene("more", "more", "FCNN", "--start-from", "teacher/model_CNN", cwd=data)
    assert result.returncode == 2 and "teacher/model_CNN is a model of mode CNN, not FCNN: name the mode it has." in result.stderr


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
    for line in ("0    done", "1    something unforeseen", "2    a mistake in the command", "3    training diverged", "130  stopped by"):
        assert line in result.stdout
    for option in ("epochs", "batch-size", "learning-rate", "image-size", "loss", "seed", "device", "output", "load-model", "skip-bad"):
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
    """What a run says: found, and the table of findings."""
    spoil(data)
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 2
    assert not (data / "model_FCNN").exists() and "epoch" not in result.stdout
    return result.stdout.splitlines(), result.stderr.splitlines()


def remove(path):
    for child in path.iterdir():
        remove(child) if child.is_dir() else child.unlink()
    path.rmdir()


@pytest.mark.parametrize("spoil, messages", [
    (lambda d: remove(d / "train"), ["error     train: no such folder: check the path."]),
    (lambda d: remove(d / "train/dark"), [
        "error     train: one class only, light: add a folder for what is not light.",
        "error     test/dark: train has no class of this name: rename the folder, or delete it."]),
    (lambda d: (d / "test/dark").rename(d / "test/Dark"), ["error     test/Dark: in train this class is spelt dark: rename one of them."]),
    (lambda d: [(d / "train/dark/0.png").write_bytes(b""), (d / "test/light/1.png").write_text("<html>")], [
        "error     train/dark/0.png: the file is empty.",
        "error     test/light/1.png: not a JPEG, PNG or WebP photo but a web page.",
        "With --skip-bad, photos that cannot be used are left out: 2 of them."]),
    (lambda d: [(d / "train/sky").mkdir(), (d / "test/light/1.png").write_bytes(b"")], [
        "error     train/sky: no photos in it: put JPEG, PNG or WebP files there, or delete the folder.",
        "error     test/light/1.png: the file is empty.",
        "warning   test/sky: no such folder, so this class is not tested.",
        "With --skip-bad, photos that cannot be used are left out: 1 of them."]),
], ids=["no folder", "one class", "spelling", "unreadable photos", "both"])
def test_a_mistake_in_the_folders(spoil, messages, data):
    assert wrong(data, spoil)[1] == messages


def test_what_is_found_and_passed_over_is_said_before_what_is_wrong(data):
    def spoil(data):
        for path in (data / "train/dark").iterdir():
            path.rename(path.with_suffix(".HEIC"))
        for path in (data / "test").glob("*/*"):
            path.rename(data / "test" / f"{path.parent.name}{path.name}")
        for name in ("dark", "light"):
            (data / "test" / name).rmdir()
        (data / "train/light/a.\x1b[31m").touch()

    found, messages = wrong(data, spoil)
    assert found == [
        "train: 6 photos of 2 classes: dark 0, light 6",
        r"  passed over: 1 .\x1b[31m, 6 .heic",
        "test: 0 photos of 0 classes: none",
    ]
    assert messages == [
        "error     train/dark: no photos in it: put JPEG, PNG or WebP files there, or delete the folder.",
        "error     test: no class folders in it: make a folder of photos for each class.",
        "warning   train: passed over 6 HEIC photos: export them as JPEG; a phone takes JPEG once its camera is set to Most Compatible.",
        "warning   test: passed over 12 photos beside the class folders: move them into their classes.",
    ]


def test_a_class_that_cannot_be_shown_as_it_is(data):
    found, messages = wrong(data, lambda d: (d / "train/dark").rename(d / "train/dark\n"))
    assert found[0] == r"train: 12 photos of 2 classes: dark\n 6, light 6"
    assert messages[0] == r"error     train/dark\n: the name of a class must be plain text: rename the folder."
    assert r"warning   test/dark\n: no such folder, so this class is not tested." in messages


def test_mistakes_in_the_folder_for_a_trained_model(data):
    """Classes and photos at once; and the model is read once."""
    scene("train", "test", "FCNN", "--epochs", 1, cwd=data, check=True)
    code = ("import sys; from scene import main, command, modelfile\nload = modelfile.load\n"
            "def say(data):\n    print('read'); return load(data)\n"
            "modelfile.load = say\nsys.exit(command.run(main.run, main.parse(sys.argv[1:])))")
    command = [sys.executable, "-c", code, "none", "test", "FCNN", "--load-model", "model_FCNN"]
    result = subprocess.run(command, cwd=data, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.split().count("read") == 1

    (data / "test/dark").rename(data / "test/Dark")
    (data / "test/Dark/0.png").write_bytes(b"")
    result = scene("none", "test", "FCNN", "--load-model", "model_FCNN", cwd=data)
    assert result.returncode == 2 and "test: 12 photos of 2 classes: Dark 6, light 6\n" in result.stdout
    assert result.stderr.splitlines() == [
        "error     test/Dark: in the model this class is spelt dark: rename one of them.",
        "error     test/Dark/0.png: the file is empty.",
        "With --skip-bad, photos that cannot be used are left out: 1 of them."]


def test_a_class_without_test_photos_is_a_warning(data):
    remove(data / "test/dark")
    result = scene("train", "test", "FCNN", "--epochs", 1, cwd=data)
    assert result.returncode == 0
    assert "warning   test/dark: no such folder, so this class is not tested.\n" in result.stdout


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


@pytest.mark.parametrize("epochs", [1, 20])
def test_a_diverging_training_ends_with_3(epochs, data):
    """After a single epoch only the last step's weights show it."""
    result = scene("train", "test", "FCNN", "--learning-rate", 1e30, "--epochs", epochs, cwd=data)
    assert result.returncode == 3
    assert result.stderr.startswith("Training diverged in ") and result.stderr.count("\n") == 1
    assert not (data / "model_FCNN").exists()


def test_cuda_where_there_is_none(data):
    result = scene("train", "test", "FCNN", "--device", "cuda", cwd=data, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "--device cuda: torch finds no CUDA device here; leave the option away to train on the CPU.\n"


def test_ctrl_c_ends_with_130(tmp_path):
    """Pressed in a terminal it reaches every process; in the middle of a step with two of them."""
    for name in ("train", "test"):
        make_photos(tmp_path / name, count=40)
    process = subprocess.Popen([sys.executable, "-m", "scene.main", "train", "test", "FCNN", "--epochs", "1000000"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not process.stdout.readline().startswith("epoch 3"):
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors.startswith("\nStopped in epoch ") and errors.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_FCNN", "test", "train"]


def test_a_folder_where_the_model_belongs_is_found_before_training(data):
    (data / "model_FCNN").mkdir()
    result = scene("train", "test", "FCNN", cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "./model_FCNN is a folder, where a file is to be written: choose another --output.\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_found_before_training(data):
    (data / "locked").mkdir(mode=0o500)
    result = scene("train", "test", "FCNN", "--output", "locked", cwd=data)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "locked/model_FCNN.try: Permission denied.\n")


def test_a_reader_that_has_had_enough_is_no_error(data):
    shell = f"{sys.executable} -m scene.main train test FCNN --epochs 3 | head -1"
    result = subprocess.run(["bash", "-c", shell], cwd=data, capture_output=True, text=True)
    assert result.stdout.startswith("train: 12 photos") and result.stderr == ""


def test_a_closed_output_is_no_reason_to_fail(data):
    result = subprocess.run(["bash", "-c", f"{sys.executable} -m scene.main train test FCNN --epochs 1 >&- 2>&-"], cwd=data)
    assert result.returncode == 0 and (data / "model_FCNN").exists()


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
