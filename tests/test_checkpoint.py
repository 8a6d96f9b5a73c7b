"""scene/learn/checkpoint.py: a resumed training ends with the bytes of an uninterrupted one."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import scene.learn.checkpoint
from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.learn.checkpoint import Checkpoint, CheckpointError, compare, describe
from scene.learn.head import with_head
from scene.learn.loop import train
from scene.learn.progress import Diverged
from scene.learn.teacher import Teacher
from scene.models import FCNN, MODES
from scene.photos.folder import Photos
from scene.signals import Stopped
from scene.version import VERSION
from tests.jobs import main_job, make_photos, make_settings, photos, start_job

RUN = {"mode": "CNN", "learning rate": 0.1}
ARRAYS = {"parameters": np.arange(5, dtype=np.float32), "random": np.arange(3, dtype=np.uint8)}


@pytest.fixture
def at_every_step(monkeypatch):
    monkeypatch.setattr("scene.learn.checkpoint.PAUSE", 0)


def with_teacher(kind, pixels, labels):
    """A network of a teacher's layers and a head for the photos, as learn/run.py makes it on each start."""
    theirs = kind(2, 16).start(torch.Generator().manual_seed(7))
    card = modelfile.make_card(theirs, kind.__name__, ["a", "b"])
    teacher = modelfile.load(modelfile.encode(theirs, card))[0]
    network = kind(3, 16)
    card = modelfile.make_card(network, kind.__name__, ["a", "b", "c"])
    with_head(network, Teacher("teacher", teacher, {}), pixels.numpy(), labels.numpy(), card, False, True)
    return network


def begun(folder, kind=FCNN, stop_at=None, rate=0.02, fine_tuning=False):
    """Trains, or resumes the training, until SIGTERM comes in step `stop_at`.

    Returns the network, or the exit code if the training was stopped.
    """
    pixels, labels = photos(20)
    network = kind(3, 16)
    steps = []

    def count(progress, size, *sums):
        steps.append(sums)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return add(progress, size, *sums)

    add = scene.learn.loop.Progress.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene.learn.loop.Progress.add", count)
        settings = make_settings(epochs=4, learning_rate=rate, batch_size=5, shard=3,
                                 small_start=not fine_tuning)
        source = with_teacher(kind, pixels, labels) if fine_tuning else None
        try:
            train(network, pixels, labels, settings, source, Checkpoint(folder / "checkpoint", RUN))
        except Stopped as error:
            return error.exit_code
    return network


def numbers(network):
    return network.params.numpy().tobytes() + network.state.numpy().tobytes()


def epochs(output):
    """The lines of the epochs."""
    return [line for line in output.splitlines() if line.startswith("epoch")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cores, fine_tuning", [(1, False), (2, False), (2, True)])
def test_a_training_interrupted_again_and_again_ends_with_the_same_bytes(
        mode, cores, fine_tuning, tmp_path, monkeypatch, at_every_step, capsys):
    monkeypatch.setattr("scene.processes.cores", lambda: cores)
    kind = MODES[mode].network
    for folder in ("whole", "broken"):
        (tmp_path / folder).mkdir()
    begin = partial(begun, kind=kind, fine_tuning=fine_tuning)
    true = numbers(begin(tmp_path / "whole"))
    whole = epochs(capsys.readouterr().out)
    assert [begin(tmp_path / "broken", stop_at=step) for step in (1, 3, 5, 2)] == [143] * 4
    assert numbers(begin(tmp_path / "broken")) == true
    said = capsys.readouterr().out
    assert "Resumed in epoch 3 of 4, after 15 of its 20 photos." in said
    assert epochs(said) == whole


def test_a_training_without_a_checkpoint_can_be_stopped_too():
    pixels, labels = photos(20)
    with pytest.raises(Stopped), pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene.learn.loop.one_cycle", lambda t: os.kill(os.getpid(), signal.SIGINT) or 0)
        train(FCNN(3, 16), pixels, labels, make_settings(epochs=2, learning_rate=0.1, batch_size=5))


def test_weights_are_saved_only_once_a_step_has_shown_that_they_are_good(tmp_path, at_every_step):
    """The first step ruins them, so the file holds those from before it."""
    with pytest.raises(Diverged, match="Training diverged in epoch 1: the loss has exploded to "):
        begun(tmp_path, rate=1e9)
    place, arrays = Checkpoint(tmp_path / "checkpoint", RUN).load()
    assert place == {"epoch": 1, "photos": 0, "loss": 0, "right": 0, "history": [], "done": 0}
    start = FCNN(3, 16).start(torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(arrays["parameters"], start.params)


def test_it_is_not_saved_more_often_than_it_needs_to_be(tmp_path, monkeypatch):
    writes = []
    monkeypatch.setattr(Checkpoint, "write", lambda checkpoint, data: writes.append(data))
    begun(tmp_path)
    assert len(writes) == 16 + 1            # every step is due as long as nothing was written, and the end
    monkeypatch.undo()
    writes.clear()
    monkeypatch.setattr("scene.files.write", lambda path, data, overwrite: writes.append(data))
    begun(tmp_path)
    assert len(writes) == 1 + 1


def test_what_is_read_is_what_was_written(tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint", RUN)
    assert checkpoint.load() is None
    place = {"done": 3, "loss": 0.1 + 0.2}
    tensors = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}
    checkpoint.write(checkpoint.encode(place, tensors))
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
        with pytest.raises(CheckpointError, match="checkpoint is damaged: delete it and start over."):
            checkpoint.load()


def test_differences_are_named():
    assert compare(RUN, RUN) == []
    assert compare(RUN, {"mode": "CNN", "learning rate": 0.2, "class sea": "4 photos"}) == [
        "learning rate was 0.1 and is 0.2", "class sea was none and is 4 photos"]


# The whole program


OPTIONS = ["train", "test", "FCNN", "--epochs", "100", "--batch-size", "6", "--image-size", "8"]


@pytest.fixture
def folders(tmp_path):
    """A folder with photos to train on and to test with."""
    for name in ("train", "test"):
        make_photos(tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory):
    """A folder with photos and the checkpoint of a training that SIGTERM has stopped."""
    folder = tmp_path_factory.mktemp("interrupted")
    for name in ("train", "test"):
        make_photos(folder / name)
    process = start_job(*OPTIONS, cwd=folder)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.startswith("\nStopped in epoch ")
    assert said.endswith(". The same command with --resume continues from there.\n")
    assert sorted(os.listdir(folder)) == ["checkpoint_FCNN", "test", "train"]
    return folder


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_every_way_to_stop_it_has_its_exit_code(number, code, folders):
    process = start_job(*OPTIONS, cwd=folders)
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


def change_photo(folder):
    Image.new("RGB", (20, 24)).save(folder / "train/dark/3.png")


def lose_photo(folder):
    os.unlink(folder / "train/light/0.png")


def rename_class(folder):
    for name in ("train", "test"):
        (folder / name / "light").rename(folder / name / "pale")


def damage(folder):
    (folder / "checkpoint_FCNN").write_bytes(b"garbage")


@pytest.mark.parametrize("options, spoil, message", [
    ([], None,
     "./checkpoint_FCNN is the checkpoint of an interrupted run: add --resume to continue it, or choose "
     "another --output to start a new run.\n"),
    (["--resume", "--seed", "4"], None,
     "./checkpoint_FCNN belongs to another run: seed was 0 and is 4. Use the same photos and options as "
     "before, or choose another --output to start a new run.\n"),
    (["--resume", "--image-size", "16", "--loss", "mse"], None,
     "belongs to another run: image size was 8 and is 16; loss was cross-entropy and is mse. Use the same"),
    (["--resume", "--head-only"], None,
     "belongs to another run: hidden was [384, 256] and is [1024, 512]; epochs was 100 and is 0; "),
    (["--resume"], change_photo, "belongs to another run: class dark was 6 photos ("),
    (["--resume"], lose_photo, "class light was 6 photos ("),
    (["--resume"], rename_class, "class pale was none and is 6 photos ("),
    (["--resume"], damage, "./checkpoint_FCNN is damaged: delete it and start over.\n"),
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


def test_another_version_or_teacher_is_another_training(monkeypatch):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    photos = Photos(pixels, labels=np.zeros(2, int), paths=["a", "b"], classes=["sea"])
    settings = make_settings(epochs=1, learning_rate=0.1)
    before = describe("FCNN", FCNN(2, 8), photos, settings)
    monkeypatch.setattr("scene.learn.checkpoint.VERSION", "0.9")
    now = describe("FCNN", FCNN(2, 8), photos, settings)
    assert compare(before, now) == [f"Scene was {VERSION} and is 0.9"]

    monkeypatch.undo()
    runs = [describe("FCNN", FCNN(2, 8), photos, settings, teacher) for teacher in (
        None, *(Teacher("model", None, {"sha256": digits * 16}) for digits in ("0123", "4567")))]
    assert compare(runs[0], runs[1]) == ["start from was none and is 012301230123"]
    assert compare(runs[1], runs[2]) == ["start from was 012301230123 and is 456745674567"]


def test_nothing_to_go_on_from_is_said(folders):
    result = main_job("train", "test", "FCNN", "--epochs", 1, "--resume", cwd=folders)
    assert result.returncode == 0
    assert result.stdout.startswith("Note: there is no ./checkpoint_FCNN to resume from, so training starts "
                                    "from the beginning.\n")


def test_the_last_good_weights_of_a_diverging_training_are_a_model(folders):
    result = main_job("train", "test", "FCNN", "--learning-rate", 1e9, cwd=folders)
    assert result.returncode == 3 and result.stderr.count("\n") == 1
    assert result.stderr.endswith(" The last good weights are in ./diverged_FCNN, a model file like any "
                                  "other.\n")
    assert sorted(os.listdir(folders)) == ["diverged_FCNN", "test", "train"]
    pixels = np.zeros((1, 24, 24, 3), np.uint8)
    assert np.isfinite(Classifier.open(folders / "diverged_FCNN").probabilities(pixels)).all()


def test_a_folder_that_goes_away(folders):
    process = start_job(*OPTIONS, "--output", "out", cwd=folders)
    shutil.rmtree(folders / "out")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said == ("out/checkpoint_FCNN could not be written: No such file or directory. Once that is "
                    "fixed, the same command with --resume continues from the last checkpoint.\n")


def test_a_killed_worker_ends_the_run_with_advice_and_it_resumes(tmp_path):
    """As the system does when memory runs out. Batches of two shards have a worker each."""
    for name in ("train", "test"):
        make_photos(tmp_path / name, count=40)
    options = ["train", "test", "FCNN", "--epochs", 100, "--batch-size", 80, "--image-size", 8]
    split = "import scene.models as m; m.MODES['FCNN'] = m.MODES['FCNN']._replace(shard=20); "
    code = split + "import sys; from scene import errors, main, processes; processes.cores = lambda: 2; "
    code += "sys.exit(errors.run(main.run, main.parse(sys.argv[1:])))"
    command = [sys.executable, "-c", code, *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, **pipes)
    while not process.stdout.readline().startswith("epoch 3"):
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, (
        "A worker process was killed, perhaps for lack of memory: close other programs. The same command "
        "with --resume continues from the last checkpoint. A new run in another --output needs less memory "
        "with a "
        "smaller --batch-size or --image-size.\n"))
    result = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and "Resumed in epoch " in result.stdout


def test_a_signal_after_the_last_step_names_the_checkpoint(folders):
    code = ("import os, signal, sys; from scene import errors, main; from scene.learn import loop; "
            "loop.recalibrate = lambda *_: os.kill(os.getpid(), signal.SIGTERM); "
            "loop.any_size = lambda _: True; "
            "sys.exit(errors.run(main.run, main.parse(sys.argv[1:])))")
    command = [sys.executable, "-c", code, *OPTIONS]
    result = subprocess.run(command, cwd=folders, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        143, "\nStopped. The same command with --resume continues from the last checkpoint.\n")
    assert (folders / "checkpoint_FCNN").exists() and not (folders / "model_FCNN").exists()


# A disk of 9 MB holds two checkpoints, but not three.  $1: this Python, $2: the fault, after the first save.
ON_A_SMALL_DISK = """
job="$1 -m scene.main train test FCNN --epochs 100 --batch-size 6 --image-size 8 --output out"
mkdir out && mount -t tmpfs -o size=9m none out || exit 77
$job > log 2> errors &
training=$!
until grep -q 'epoch 3' log; do sleep 0.1; done
sha256sum out/checkpoint_FCNN > before
eval "$2"
kill $training
wait $training
echo $? > code
sha256sum -c before > same
mount -o remount,rw,size=20m out
$job --resume > log2 && cp -r out kept
"""


@pytest.mark.parametrize("fault, message", [
    ("head -c 9m /dev/zero > out/filler", "No space left on device"),
    ("mount -o remount,ro out", "Read-only file system"),
])
def test_a_disk_that_fails_in_the_middle_costs_nothing(fault, message, folders):
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare, which lets a test mount a disk of its own")
    shell = ["sh", "-c", ON_A_SMALL_DISK, "sh", sys.executable, fault]
    command = ["unshare", "--map-root-user", "--mount", *shell]
    result = subprocess.run(command, cwd=folders, capture_output=True, text=True, timeout=120)
    if not (folders / "log").exists():
        pytest.skip(f"this system lets no test mount a disk: {result.stderr}")
    assert (folders / "code").read_text() == "2\n"
    assert (folders / "errors").read_text() == (
        f"out/checkpoint_FCNN could not be written: {message}. Once that is fixed, the same command with "
        "--resume continues from the last checkpoint.\n")
    assert (folders / "same").read_text() == "out/checkpoint_FCNN: OK\n"
    assert "Resumed in epoch " in (folders / "log2").read_text()
    assert set(os.listdir(folders / "kept")) - {"filler"} == {
        "model_FCNN", "metrics_FCNN.json", "report_FCNN.html"}


@pytest.mark.parametrize("part, count, said", [
    ("kills", 1, r"1 of them inside a save: 0 unreadable files"),
    ("resumes", 2, r"2 identical models"),
    ("pairs", 2, r"2 pairs of trainings in one folder"),
])
def test_a_few_runs_of_the_soak(part, count, said):
    command = [sys.executable, "-c", f"from tests import crash; crash.{part}({count})"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and said in result.stdout, result.stdout + result.stderr
