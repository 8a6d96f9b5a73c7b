"""scene/learn/output.py and scene/main.py: no trained work is lost, whatever happens, even by two runs."""

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from importlib.metadata import version

import pytest

from scene.answer.modelfile import load
from scene.version import VERSION
from tests.jobs import main_job, make_photos, start_job
from tests.test_files import NO_FOLDER_SYNC, in_own_mounts

OPTIONS = ["train", "test", "FCNN", "--epochs", 6, "--batch-size", 6, "--image-size", 8]
RESULTS = ["metrics_FCNN.json", "model_FCNN", "report_FCNN.html"]
FOLDERS = ["test", "train"]


@pytest.fixture
def data(tmp_path):
    for name in FOLDERS:
        make_photos(tmp_path / name)
    return tmp_path


def changed_job(change, *arguments, cwd, **options):
    """The main job in a Python that executes the code `change` first."""
    code = ("import os, signal, sys, time\nfrom scene import errors, files, main\n"
            f"{change}\nsys.exit(errors.run(main.run, main.parse(sys.argv[1:])))")
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)


def report(path):
    return json.loads(path.read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(os.listdir(folder))


# Interrupted after the last step


AT = {                          # moments after the last step, and what is there then
    "recalibration": ("from scene.learn import loop\nloop.any_size = lambda network: True\n"
                      "loop.recalibrate = lambda *_: stop()", []),
    "the model": ("write = files.write\nfiles.write = lambda path, *a, **k: "
                  "stop() if 'model' in path else write(path, *a, **k)", []),
    "the test": ("from scene.answer.classifier import Classifier\nfeatures = Classifier.features\n"
                 "Classifier.features = lambda c, x, run=map: stop() if len(x) > 1 else features(c, x, run)",
                 ["model_FCNN"]),
    "the metrics": ("write = files.write\nfiles.write = lambda path, *a, **k: "
                    "stop() if 'metrics' in path else write(path, *a, **k)", ["model_FCNN"]),
    "the report": ("write = files.write\nfiles.write = lambda path, *a, **k: "
                   "stop() if 'report' in path else write(path, *a, **k)", RESULTS[:2]),
    "the checkpoint's end": ("files.remove = lambda path: stop()", RESULTS),
}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
STOPS = [(signal.SIGKILL, moment) for moment in AT]
STOPS += [(signal.SIGTERM, "recalibration"), (signal.SIGTERM, "the model"), (signal.SIGINT, "the test"),
          (signal.SIGHUP, "the metrics"), (signal.SIGTERM, "the checkpoint's end")]     # all handled alike


@pytest.mark.parametrize("number, moment", STOPS)
def test_what_is_trained_is_not_trained_again(moment, number, data):
    """Whatever stopped the run, and when: --resume goes straight to the test, with the same results."""
    change, there = AT[moment]
    listen = "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    stop = f"def stop(): os.kill(os.getpid(), {int(number)})\n"
    stopped = changed_job(listen + stop + change, *OPTIONS, cwd=data)
    assert stopped.returncode == CODES[number], stopped.stderr
    left = [name for name in names(data) if not name.endswith((".part", ".lock"))]
    assert left == sorted(["checkpoint_FCNN", *there, *FOLDERS])
    if number != signal.SIGKILL:
        assert left == names(data)
        how = "goes straight to the test" if "model_FCNN" in there else "continues from the last checkpoint"
        assert stopped.stderr == f"\nStopped. The same command with --resume {how}.\n"

    resumed = main_job(*OPTIONS, "--resume", cwd=data)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert "after 12 of its 12 photos: nothing is left to train.\n" in resumed.stdout
    assert "\nepoch" not in resumed.stdout and "previous" not in resumed.stdout
    assert names(data) == sorted([*RESULTS, *FOLDERS])
    whole = main_job(*OPTIONS, "--output", "whole", cwd=data)
    assert whole.returncode == 0
    assert (data / "model_FCNN").read_bytes() == (data / "whole/model_FCNN").read_bytes()
    ours, theirs = (report(folder / "metrics_FCNN.json") for folder in (data, data / "whole"))
    assert len(ours["history"]) == 6
    for name in theirs.keys() - {"seconds", "model", "command"}:
        assert json.dumps(ours[name]) == json.dumps(theirs[name]), name


def test_a_finished_run_is_not_trained_again(data):
    assert main_job(*OPTIONS, cwd=data).returncode == 0
    before = report(data / "metrics_FCNN.json")
    again = main_job(*OPTIONS, "--resume", cwd=data)
    assert (again.returncode, again.stderr) == (0, "")
    assert "This run is finished, and ./model_FCNN is its model: nothing is trained.\n" in again.stdout
    assert "\nepoch" not in again.stdout and names(data) == sorted([*RESULTS, *FOLDERS])
    assert report(data / "metrics_FCNN.json") | {"seconds": 0} == before | {"seconds": 0}


NOTHING_THERE = "Note: there is no ./checkpoint_FCNN to resume from"


@pytest.mark.parametrize("change, said", [
    (lambda data: ["--seed", 1], "Note: ./model_FCNN is of another run (seed was 0 and is 1), so training "),
    (lambda data: (data / "train/dark/0.png").unlink(), "(class dark was 6 photos ("),
    (lambda data: (data / "model_FCNN").write_bytes(b"?"), NOTHING_THERE),
    (lambda data: (data / "metrics_FCNN.json").write_bytes(b"[]"), NOTHING_THERE),
    (lambda data: (data / "metrics_FCNN.json").unlink(), NOTHING_THERE),
])
def test_another_run_is_trained(change, said, data):
    main_job(*OPTIONS, cwd=data, check=True)
    options = change(data)
    options = options if isinstance(options, list) else []
    again = main_job(*OPTIONS, "--resume", *options, cwd=data)
    assert again.returncode == 0 and "\nepoch 6/6" in again.stdout and said in again.stdout


@pytest.mark.parametrize("moment", ["the model", "the metrics"])
def test_a_full_disk_after_the_last_step_names_the_way_on(moment, data):
    change, there = AT[moment]
    full = "def stop(): raise OSError(28, 'No space left on device', 'out')\n"
    result = changed_job(full + change, *OPTIONS, cwd=data)
    how = "goes straight to the test" if there else "continues from the last checkpoint"
    assert result.returncode == 2
    assert result.stderr == f"out: No space left on device. The same command with --resume {how}.\n"
    assert main_job(*OPTIONS, "--resume", cwd=data).returncode == 0


def test_an_unforeseen_error_names_the_way_on(data):
    result = changed_job("def stop(): return 1 / 0\n" + AT["the test"][0], *OPTIONS, cwd=data,
                         env=os.environ | {"TMPDIR": str(data)})
    assert result.returncode == 1 and (data / "checkpoint_FCNN").exists()
    assert result.stderr.startswith("Scene failed unexpectedly (") and "ZeroDivisionError" in result.stderr
    assert result.stderr.endswith(".log. The same command with --resume goes straight to the test.\n")


# Two runs in one folder


def start(*arguments, cwd):
    command = [sys.executable, "-m", "scene.main", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_trainings_that_begin_at_once_one_is_trained_and_the_others_are_told(data):
    runs = [start(*OPTIONS, "--seed", seed, cwd=data) for seed in range(3)]
    said = [run.communicate(timeout=120) for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 2, 2]
    winner = codes.index(0)
    assert report(data / "metrics_FCNN.json")["settings"]["seed"] == winner
    for i, (_, errors) in enumerate(said):
        if i != winner:
            who = f"training of FCNN: process {runs[winner].pid} on "
            assert errors.startswith(f"Another run writes to . ({who}")
            assert errors.endswith("): wait until it ends, or choose another --output.\n")
    assert names(data) == sorted([*RESULTS, *FOLDERS])


def test_trainings_of_two_modes_share_a_folder(data):
    runs = [start("train", "test", mode, "--epochs", 2, cwd=data) for mode in ("FCNN", "CNN")]
    for run in runs:
        assert (run.communicate(timeout=120)[1], run.returncode) == ("", 0)
    assert {"model_FCNN", "model_CNN", "metrics_FCNN.json", "metrics_CNN.json"} <= set(names(data))


EVERY_STEP = "from scene.learn import checkpoint\ncheckpoint.PAUSE = 0\n"


def test_tests_of_a_model_do_not_disturb_a_training_that_saves_at_every_step(data):
    main_job(*OPTIONS, "--output", "other", cwd=data, check=True)
    code = f"import sys\nfrom scene import errors, main\n{EVERY_STEP}" \
        "sys.exit(errors.run(main.run, main.parse(sys.argv[1:])))"
    command = [sys.executable, "-c", code, *map(str, OPTIONS), "--epochs", "250"]
    training = subprocess.Popen(command, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not training.stdout.readline().startswith("epoch 3"):
        assert training.poll() is None
    tests = [start("-", "test", "FCNN", "--load-model", "other/model_FCNN", cwd=data) for _ in range(6)]
    for test in tests:
        assert (test.communicate(timeout=120)[1], test.returncode) == ("", 0)
    assert (training.communicate(timeout=120)[1], training.returncode) == ("", 0)
    assert names(data) == sorted(["evaluation_FCNN.json", "other", *RESULTS, *FOLDERS])


def test_a_killed_run_locks_nobody_out(data):
    process = start_job("train", "test", "FCNN", "--epochs", 1000, "--image-size", 8, cwd=data)
    assert ".training_FCNN.lock" in names(data)
    process.kill()
    process.communicate()
    note = (data / ".training_FCNN.lock").read_text()
    assert note.startswith(f"training of FCNN: process {process.pid} on ")
    result = main_job("train", "test", "FCNN", "--epochs", 1000, "--image-size", 8, cwd=data)
    assert result.returncode == 2 and "is the checkpoint of an interrupted run" in result.stderr
    assert names(data) == ["checkpoint_FCNN", *FOLDERS]


def test_without_locks_it_trains_and_says_so(data):
    change = "import fcntl\ndef fail(*_): raise OSError(37, 'No locks available')\nfcntl.flock = fail"
    result = changed_job(change, *OPTIONS, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Note: files in . cannot be locked, so let no other training of FCNN "
                                    "write there before this one ends.\n")


# File systems


@pytest.mark.parametrize("name", NO_FOLDER_SYNC)
def test_a_share_without_folder_sync_can_be_trained_on(name, data):
    change = f"""
fsync = os.fsync
def fail(handle):
    if os.path.isdir(f"/proc/self/fd/{{handle}}"):
        raise OSError({getattr(errno, name)}, "{name}")
    fsync(handle)
os.fsync = fail
"""
    result = changed_job(change, *OPTIONS, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(data) == sorted([*RESULTS, *FOLDERS])


TRAIN = ' "$1" -m scene.main train test FCNN --epochs 2 --image-size 8 --output out'


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_are_mounted_files_are_written_in_place(name, data):
    (data / "out").mkdir()
    for path in (data / "out" / name, data / "mine"):
        path.touch()
    script = f"mount --bind mine out/{name} || exit 77\n{TRAIN}\n{TRAIN} --resume\nls -A out"
    result = in_own_mounts(script, sys.executable, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert "nothing is trained" in result.stdout
    assert result.stdout.endswith("\n" + "\n".join(RESULTS) + "\n")
    if name == "model_FCNN":
        assert load((data / "mine").read_bytes())[1]["classes"] == ["dark", "light"]
    elif name == "report_FCNN.html":
        assert (data / "mine").read_text().startswith("<!DOCTYPE html>")
    else:
        assert report(data / "mine")["photos"] == 12


def test_a_checkpoint_that_is_a_mounted_file_is_refused_before_training(data):
    (data / "out").mkdir()
    for path in (data / "out/checkpoint_FCNN", data / "mine"):
        path.touch()
    script = f"mount --bind mine out/checkpoint_FCNN || exit 77\n{TRAIN}"
    result = in_own_mounts(script, sys.executable, cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "out/checkpoint_FCNN cannot be replaced (Device or resource busy), but every save replaces it: mount "
        "or share its folder instead, or choose another --output.\n")


def test_a_result_that_cannot_be_written_is_noticed_before_training(data):
    (data / "out").mkdir()
    for path in (data / "out/metrics_FCNN.json", data / "mine"):
        path.touch()
    path = "out/metrics_FCNN.json"
    script = f"mount --bind mine {path} || exit 77\nmount -o remount,bind,ro {path}\n{TRAIN}"
    result = in_own_mounts(script, sys.executable, cwd=data)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{path} cannot be replaced (Device or resource busy): choose another --output.\n"


NOT_REGULAR = "./model_FCNN is not a regular file, so Scene cannot replace it: choose another --output."


@pytest.mark.parametrize("target, message", [
    ("/dev/null", NOT_REGULAR),
    ("model_FCNN", NOT_REGULAR),
    ("train", "./model_FCNN is a folder, but Scene writes a file there: choose another --output."),
    ("nowhere/model", "/nowhere cannot be written to (No such file or directory): choose another --output."),
])
def test_a_link_that_leads_nowhere_good_is_refused(target, message, data):
    (data / "model_FCNN").symlink_to(target)
    result = main_job(*OPTIONS, cwd=data)
    assert (result.returncode, result.stdout) == (2, "") and result.stderr.endswith(f"{message}\n")
    assert names(data) == sorted(["model_FCNN", *FOLDERS]) and stat.S_ISCHR(os.stat("/dev/null").st_mode)


# What becomes of older files


def test_a_model_that_is_replaced_is_kept(data):
    models = []
    for seed in (0, 1, 1, 2):
        result = main_job(*OPTIONS, "--seed", seed, cwd=data)
        assert (result.returncode, result.stderr) == (0, "")
        replaced = bool(models) and seed != models[-1][0]
        assert ("\nThe older ./model_FCNN is now ./previous_FCNN.\n" in result.stdout) == replaced
        models.append((seed, sha256(data / "model_FCNN")))
    assert len(set(models)) == 3 and models[1] == models[2]
    assert sha256(data / "previous_FCNN") == models[1][1]
    assert names(data) == sorted(["previous_FCNN", *RESULTS, *FOLDERS])


def test_a_teacher_is_not_lost_to_its_pupil(data):
    main_job(*OPTIONS, cwd=data, check=True)
    teacher = sha256(data / "model_FCNN")
    result = main_job(*OPTIONS, "--start-from", "model_FCNN", cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert sha256(data / "previous_FCNN") == teacher
    assert load((data / "model_FCNN").read_bytes())[1]["started_from"]["sha256"] == teacher


def test_a_test_leaves_the_metrics_of_the_training(data):
    main_job(*OPTIONS, cwd=data, check=True)
    before = (data / "metrics_FCNN.json").read_bytes()
    result = main_job("-", "test", "FCNN", "--load-model", "model_FCNN", cwd=data)
    assert result.returncode == 0 and "metrics: ./evaluation_FCNN.json" in result.stdout
    assert (data / "metrics_FCNN.json").read_bytes() == before
    model = {"path": "model_FCNN", "sha256": sha256(data / "model_FCNN")}
    assert report(data / "evaluation_FCNN.json")["model"] == model


def test_links_are_followed(data):
    (data / "kept").mkdir()
    (data / "kept/old").write_bytes(b"an older model")
    (data / "model_FCNN").symlink_to("kept/old")
    (data / "metrics_FCNN.json").symlink_to("kept/new.json")
    result = main_job(*OPTIONS, cwd=data)
    assert (result.returncode, result.stderr) == (0, "")
    assert (data / "model_FCNN").is_symlink() and (data / "metrics_FCNN.json").is_symlink()
    assert names(data / "kept") == ["new.json", "old"]
    assert load((data / "kept/old").read_bytes())[1]["mode"] == "FCNN"
    assert (data / "previous_FCNN").read_bytes() == b"an older model"


def test_the_metrics_say_how_the_model_was_made(data):
    result = main_job(*OPTIONS, cwd=data)
    found = report(data / "metrics_FCNN.json")
    assert found["model"] == {"path": "./model_FCNN", "sha256": sha256(data / "model_FCNN")}
    assert found["folders"] == {"train": str(data / "train"), "test": str(data / "test")}
    assert found["settings"]["epochs"] == 6 and found["settings"]["image_size"] == 8
    assert found["versions"]["scene"] == VERSION and found["versions"]["torch"] == version("torch")
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert lines == [f"epoch {e['epoch']}/6: loss {e['loss']:.3f}, training accuracy {e['accuracy']:.1%}"
                     for e in found["history"]]


CLOCK = """
now = [0.0]
time.monotonic = lambda: now[0]
write = files.write
def slow(path, *a, **k):
    now[0] += 1000
    write(path, *a, **k)
files.write = slow
"""


def test_the_time_includes_the_writing_of_every_file(data):
    """Each write takes 1000 seconds of this clock: two checkpoints, the model, the metrics and the report."""
    result = changed_job(CLOCK, *OPTIONS, "--no-cache", cwd=data)
    assert "total time: 5000.0 s\n" in result.stdout.replace("\n\n", "\n"), result.stdout
    result = changed_job(CLOCK, "-", "test", "FCNN", "--load-model", "model_FCNN", "--no-cache", cwd=data)
    assert "total time: 2000.0 s\n" in result.stdout
