"""scene/checkpoint.py: whatever interrupts a training, going on gives the bytes of a training that nothing
interrupted.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import scene.learn.checkpoint
from scene import files
from scene.answer.classifier import Classifier
from scene.learn.checkpoint import Checkpoint, CheckpointError, compare
from scene.learn.loop import train
from scene.learn.progress import Diverged
from scene.models import CNN, FCNN
from scene.signals import Stopped, postponed
from scene.version import VERSION
from tests.jobs import main_job, make_photos, make_settings, photos

RUN = {"mode": "CNN", "learning rate": 0.1}
ARRAYS = {"parameters": np.arange(5, dtype=np.float32), "random": np.arange(3, dtype=np.uint8)}


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr("scene.learn.checkpoint.PAUSE", 0)


def begun(folder, kind=FCNN, stop_at=None, epochs=4, rate=0.02, number=signal.SIGTERM):
    """Trains, or goes on with it, until a signal comes in step `stop_at`; returns the network, or the exit
    code if it was stopped.
    """
    pixels, labels = photos(20)
    network, steps = kind(3, 16), []

    def count(progress, size, *sums):
        steps.append(sums)
        if len(steps) == stop_at:
            os.kill(os.getpid(), number)
        return add(progress, size, *sums)

    add = scene.learn.loop.Progress.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene.learn.loop.Progress.add", count)
        settings = make_settings(epochs=epochs, learning_rate=rate, batch_size=5, shard=3, small_start=True)
        try:
            train(network, pixels, labels, settings, checkpoint=Checkpoint(folder / "checkpoint", RUN))
        except Stopped as error:
            return error.exit_code
    return network


def numbers(network):
    return network.params.numpy().tobytes() + network.state.numpy().tobytes()


@pytest.mark.parametrize("kind", [FCNN, CNN])
@pytest.mark.parametrize("cores", [1, 2])
def test_a_training_interrupted_again_and_again_ends_with_the_same_bytes(kind, cores, tmp_path, monkeypatch, at_every_step, capsys):
    monkeypatch.setattr("scene.processes.cores", lambda: cores)
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    true = numbers(begun(tmp_path / "whole", kind))
    whole = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [begun(tmp_path / "broken", kind, stop_at=step) for step in (1, 3, 5, 2)] == [143] * 4
    assert numbers(begun(tmp_path / "broken", kind)) == true
    said = capsys.readouterr().out
    assert "Resumed in epoch 3 of 4, after 15 of its 20 photos." in said
    assert [line for line in said.splitlines() if line.startswith("epoch")] == whole


def test_a_training_without_a_checkpoint_can_be_stopped_too():
    pixels, labels = photos(20)
    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene.learn.loop.one_cycle", lambda t: os.kill(os.getpid(), signal.SIGINT) or 0)
        train(FCNN(3, 16), pixels, labels, make_settings(epochs=2, learning_rate=0.1, batch_size=5))


def test_weights_are_saved_only_once_a_step_has_shown_that_they_are_good(tmp_path, at_every_step):
    """The first step's update ruins them: the file holds those from before it."""
    with pytest.raises(Diverged, match="Training diverged in epoch 1: the loss has exploded to "):
        begun(tmp_path, rate=1e9)
    place, arrays = Checkpoint(tmp_path / "checkpoint", RUN).load()
    assert place == {"epoch": 1, "photos": 0, "loss": 0, "right": 0, "done": 0}
    start = FCNN(3, 16).start(torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(arrays["parameters"], start.params)


def test_it_is_not_saved_more_often_than_it_needs_to_be(tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr("scene.learn.checkpoint.Checkpoint.write", lambda checkpoint, data: writes.append(data))
    begun(tmp_path)
    assert len(writes) == 16                # each step is due as long as nothing was written
    monkeypatch.undo()
    monkeypatch.setattr("scene.files.write", lambda path, data: writes.append(data))
    begun(tmp_path)
    assert len(writes) == 17


def test_what_is_read_is_what_was_written(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint", RUN)
    assert checkpoint.load() is None
    place = {"done": 3, "loss": 0.1 + 0.2}
    checkpoint.write(checkpoint.encode(place, {name: torch.from_numpy(array) for name, array in ARRAYS.items()}))
    found, arrays = checkpoint.load()
    assert found == place and arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    checkpoint.remove()
    checkpoint.remove()
    assert not os.listdir(tmp_path)


@given(st.data())
def test_no_damaged_file_is_gone_on_with(tmp_path_factory, data):
    checkpoint = Checkpoint(tmp_path_factory.mktemp("damaged") / "checkpoint", RUN)
    whole = checkpoint.encode({"done": 3}, ARRAYS)
    broken = bytearray(whole)
    broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    for content in bytes(broken), whole[:data.draw(st.integers(0, len(whole) - 1))], whole + b"\0":
        checkpoint.write(content)
        with pytest.raises(CheckpointError, match="checkpoint is damaged: delete it and start again."):
            checkpoint.load()


def test_differences_are_named():
    assert compare(RUN, RUN) == []
    assert compare(RUN, {"mode": "CNN", "learning rate": 0.2, "class sea": "4 photos"}) == [
        "learning rate was 0.1 and is 0.2", "class sea was none and is 4 photos"]


def test_signals_are_noted_and_the_second_one_works():
    with pytest.raises(Stopped) as stopped, postponed() as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.number == signal.SIGTERM, "nobody acted on it, so it is raised at the end"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


# The whole program


OPTIONS = ["train", "test", "FCNN", "--epochs", "100", "--batch-size", "6", "--image-size", "8"]


@pytest.fixture
def folders(tmp_path):
    """A folder with photos to train on and to test with."""
    for name in ("train", "test"):
        make_photos(tmp_path / name)
    return tmp_path


def start(folder, *options):
    """The main job, begun and running its third epoch."""
    command = [sys.executable, "-m", "scene.main", *OPTIONS, *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))     # under nohup it would be ignored
    while not process.stdout.readline().startswith("epoch 3"):
        assert process.poll() is None
    return process


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """A folder with photos and the checkpoint of a training that SIGTERM has ended."""
    folder = tmp_path_factory.mktemp("interrupted")
    for name in ("train", "test"):
        make_photos(folder / name)
    process = start(folder)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.startswith("\nStopped in epoch ") and said.endswith(". The same command with --resume continues from there.\n")
    assert sorted(os.listdir(folder)) == ["checkpoint_FCNN", "test", "train"]
    return folder


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_every_way_to_stop_it_has_its_exit_code(number, code, folders):
    process = start(folders)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code and (folders / "checkpoint_FCNN").exists()


def test_gone_on_with_it_ends_as_if_nothing_had_been(interrupted, folders):
    shutil.copy(interrupted / "checkpoint_FCNN", folders)
    for folder, *options in (interrupted, "--output", folders / "whole"), (folders, "--resume"):
        shutil.copytree(interrupted / "train", folders / "train", dirs_exist_ok=True)
        result = main_job(*OPTIONS, *options, cwd=folder)
        assert (result.returncode, result.stderr) == (0, "")
    assert "Resumed in epoch " in result.stdout
    assert (folders / "model_FCNN").read_bytes() == (folders / "whole/model_FCNN").read_bytes()
    assert not (folders / "checkpoint_FCNN").exists() and not list(folders.glob("*.part"))


def spoil_photo(folder):
    Image.new("RGB", (20, 24)).save(folder / "train/dark/3.png")


@pytest.mark.parametrize("options, spoil, message", [
    ([], None, "add --resume to continue it, or delete it to start again."),
    (["--resume", "--seed", "4"], None, "is of another training: seed was 0 and is 4. Use the same photos and options as before, or "),
    (["--resume", "--image-size", "16", "--loss", "mse"], None,
     "image size was 8 and is 16; loss was cross-entropy and is mse; class dark was 6 photos ("),
    (["--resume"], spoil_photo, "is of another training: class dark was 6 photos ("),
    (["--resume"], lambda folder: os.unlink(folder / "train/light/0.png"), "class light was 6 photos ("),
    (["--resume"], lambda folder: [(folder / name / "light").rename(folder / name / "pale") for name in ("train", "test")],
     "class pale was none and is 6 photos ("),
    (["--resume"], lambda folder: (folder / "checkpoint_FCNN").write_bytes(b"garbage"), "is damaged: delete it and start again."),
])
def test_what_is_not_gone_on_with(options, spoil, message, interrupted, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(interrupted, folder)
    if spoil:
        spoil(folder)
    before = (folder / "checkpoint_FCNN").read_bytes()
    result = main_job(*OPTIONS, *options, cwd=folder)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert (folder / "checkpoint_FCNN").read_bytes() == before and not (folder / "model_FCNN").exists()


def test_another_version_is_another_training(monkeypatch):
    class Photos:
        classes, labels, pixels = ["sea"], np.zeros(2, int), np.zeros((2, 4, 4, 3), np.uint8)

    settings = make_settings(epochs=1, learning_rate=0.1)
    before = scene.learn.checkpoint.describe("FCNN", FCNN(2, 8), Photos, settings)
    monkeypatch.setattr("scene.learn.checkpoint.VERSION", "0.9")
    assert compare(before, scene.learn.checkpoint.describe("FCNN", FCNN(2, 8), Photos, settings)) == [f"Scene was {VERSION} and is 0.9"]
    teacher = FCNN(2, 8).start(torch.Generator())
    again = scene.learn.checkpoint.describe("FCNN", FCNN(2, 8), Photos, settings, teacher)
    teacher.params[0] += 1
    assert len(compare(again, scene.learn.checkpoint.describe("FCNN", FCNN(2, 8), Photos, settings, teacher))) == 1


def test_nothing_to_go_on_from_is_said(folders):
    result = main_job("train", "test", "FCNN", "--epochs", 1, "--resume", cwd=folders)
    assert result.returncode == 0
    assert result.stdout.startswith("Note: there is no ./checkpoint_FCNN to resume from, so training starts from the beginning.\n")


def test_the_last_good_weights_of_a_diverging_training_are_a_model(folders):
    result = main_job("train", "test", "FCNN", "--learning-rate", 1e9, cwd=folders)
    assert result.returncode == 3 and result.stderr.count("\n") == 1
    assert result.stderr.endswith(" The last good weights are in ./diverged_FCNN, a model file like any other.\n")
    assert sorted(os.listdir(folders)) == ["diverged_FCNN", "test", "train"]
    pixels = np.zeros((1, 24, 24, 3), np.uint8)
    assert np.isfinite(Classifier.open(folders / "diverged_FCNN").probabilities(pixels)).all()


def test_a_folder_that_goes_away(folders):
    process = start(folders, "--output", "out")
    shutil.rmtree(folders / "out")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1
    assert said.startswith("out/checkpoint_FCNN could not be written: No such file or directory. Once that is fixed, the same command ")


# A disk of 9 MB: two checkpoints fit, a third file does not.  $1: this Python; $2: what happens to the disk after the first save
ON_A_SMALL_DISK = """
mkdir out && mount -t tmpfs -o size=9m none out || exit 77
$1 -m scene.main train test FCNN --epochs 100 --batch-size 6 --image-size 8 --output out > log 2> errors & training=$!
until grep -q 'epoch 3' log; do sleep 0.1; done
sha256sum out/checkpoint_FCNN > before
eval "$2"
kill $training; wait $training; echo $? > code
sha256sum -c before > same
mount -o remount,rw,size=20m out
$1 -m scene.main train test FCNN --epochs 100 --batch-size 6 --image-size 8 --output out --resume > log2 && cp -r out kept
"""


@pytest.mark.parametrize("what, message", [
    ("head -c 9m /dev/zero > out/filler", "No space left on device"),
    ("mount -o remount,ro out", "Read-only file system"),
])
def test_a_disk_that_fails_in_the_middle_costs_nothing(what, message, folders):
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare, which lets a test mount a disk of its own")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", sys.executable, what]
    result = subprocess.run(command, cwd=folders, capture_output=True, text=True, timeout=120)
    if not (folders / "log").exists():
        pytest.skip(f"this system lets no test mount a disk: {result.stderr}")
    assert (folders / "code").read_text() == "2\n"
    assert (folders / "errors").read_text() == (f"out/checkpoint_FCNN could not be written: {message}. "
                                             "Once that is fixed, the same command with --resume goes on from the last one that was.\n")
    assert (folders / "same").read_text() == "out/checkpoint_FCNN: OK\n"
    assert "Resumed in epoch " in (folders / "log2").read_text()
    assert set(os.listdir(folders / "kept")) - {"filler"} == {"model_FCNN", "metrics_FCNN.json"}


@pytest.mark.parametrize("part, count, said", [
    ("kills", 3, r"3 of them inside a save: 0 unreadable files"),
    ("resumes", 2, r"2 identical models"),
])
def test_a_few_runs_of_the_soak(part, count, said):
    result = subprocess.run([sys.executable, "-c", f"from tests import crash; crash.{part}({count})"], capture_output=True, text=True)
    assert result.returncode == 0 and said in result.stdout, result.stdout + result.stderr


def test_a_save_reaches_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """In this order: the bytes, the name, the folder. And if the disk refuses, the last file is whole and
    nothing else is there.
    """
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    files.write(tmp_path / "file", b"old")
    assert done == ["fsync", "replace", "fsync"]

    def fail(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.write(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_what_killed_writers_left_is_swept_away(tmp_path):
    for name in ("model[1].77.part", "model[1].78.part", "model[1]", "model1.9.part"):
        (tmp_path / name).touch()
    files.sweep(tmp_path / "model[1]")
    assert sorted(os.listdir(tmp_path)) == ["model1.9.part", "model[1]"]
