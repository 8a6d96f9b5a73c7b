"""Training runs that are killed or interrupted at random moments, and resumed.

Each run is a fork of this process, which has loaded torch already, so a hundred runs take one minute instead
of ten. The process that forks must have no other threads. tests/test_checkpoint.py starts a few runs, and
`python -m tests.bench.soak kills` and `resumes` start as many as you like.
"""

import hashlib
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from random import Random

import scene.learn.loop  # noqa: F401  (loaded here, once for all forks)
from scene import errors, main
from scene.learn import checkpoint
from scene.models import MODES
from tests.jobs import make_photos

SLOW = 60       # seconds after which a run counts as hung


class Job:
    """`python -m scene.main train test MODE` in a fork, its output in the file `log`."""

    def __init__(self, mode, *options):
        Path("log").unlink(missing_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)    # a background job would ignore it
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                os._exit(errors.run(main.run, main.parse(["train", "test", mode, *options])))
            finally:
                os._exit(99)

    def wait(self, seconds=SLOW):
        """The exit code, -number after a fatal signal, or None if it still runs after this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None

    def end(self, number):
        """Sends it a signal. Returns its exit code."""
        os.kill(self.pid, number)
        return self.wait()

    def is_saving(self):
        """Whether it is writing a file right now, or was killed while it did."""
        return bool(list(Path().glob(f"*.{self.pid}.part")))


def model(mode):
    """The SHA-256 of the model that was written, in hex."""
    return hashlib.sha256(Path(f"model_{mode}").read_bytes()).hexdigest()


def log():
    """The output of the last run."""
    return Path("log").read_text() if os.path.exists("log") else ""


def uninterrupted(mode, *options):
    """Trains without a break: -> (the model's SHA-256, the seconds it took)."""
    started = time.monotonic()
    code = Job(mode, *options).wait()
    assert code == 0, log()
    return model(mode), time.monotonic() - started


def kills(count):
    """Kills runs that save at every step, until `count` kills have hit a save. Each run resumes the last.

    A third of the kills come at a random moment, a third within milliseconds of the next save after one, and a
    third after the last step, while the model, the test and the metrics are under way.
    """
    mode = "FCNN"
    options = ["--epochs", "40", "--batch-size", "12", "--image-size", "8", "--resume"]
    with training_folder():
        checkpoint.PAUSE = 0
        true, seconds = uninterrupted(mode, *options)
        history = metrics(mode)["history"]
        random = Random(0)
        runs = inside = resumed = finished = late = tested = 0
        while inside < count:
            runs += 1
            there = os.path.exists(f"checkpoint_{mode}")
            job = Job(mode, *options)
            if runs % 3 == 2:
                code = kill_after_training(job, random.uniform(0, 0.08))
            else:
                code = kill(job, random.uniform(0, seconds / 3), random.uniform(0, 0.01) if runs % 3 else None)
            if code == -signal.SIGKILL:
                inside += job.is_saving()
                late += is_trained()
            else:                                               # it ended just before the kill
                assert code == 0, (code, log())
                finished += 1
            if said := log():
                assert "Traceback" not in said and "damaged" not in said
                resumed += there and "Resumed in epoch" in said
                tested += "nothing is left to train" in said
            check_readable(f"checkpoint_{mode}")
            if code == 0:
                assert model(mode) == true and metrics(mode)["history"] == history
                assert sorted(os.listdir()) == ["log", f"metrics_{mode}.json", f"model_{mode}", "test", "train"]
                forget(mode)
        if finished == 0 or not os.path.exists(f"model_{mode}"):
            assert Job(mode, *options).wait() == 0, log()
        assert model(mode) == true and metrics(mode)["history"] == history
    print(f"{runs} runs killed at random moments, {inside} of them inside a save, {late} after the last step: "
          f"0 unreadable files; {resumed} resumed the run before, {tested} of them with nothing left to train; "
          f"{finished + 1} trainings ended, each with the bytes and the history of the uninterrupted one")


def metrics(mode):
    """The metrics that were written."""
    return json.loads(Path(f"metrics_{mode}.json").read_text())


def forget(mode):
    """Deletes the results of a run that has ended, so that the next one trains again."""
    for name in f"model_{mode}", f"metrics_{mode}.json":
        os.unlink(name)


def is_trained():
    """Whether the last run had done its last step."""
    return "epoch 40/40" in log() or "nothing is left to train" in log()


def kill_after_training(job, seconds):
    """Kills a job some seconds after its last step: -> its exit code."""
    code = None
    while code is None and not is_trained():
        code = job.wait(0.0002)
    if code is None:
        code = job.wait(seconds)
    return job.end(signal.SIGKILL) if code is None else code


def kill(job, after, into_save):
    """Kills a job after some seconds or, with `into_save`, that long into the next save: -> its exit code."""
    code = job.wait(after)
    if into_save is not None:
        while code is None and not job.is_saving():
            code = job.wait(0.0001)
        if code is None:
            time.sleep(into_save)
    return job.end(signal.SIGKILL) if code is None else code


def check_readable(path):
    """Asserts that a checkpoint, if there is one, is whole."""
    if os.path.exists(path):
        data = Path(path).read_bytes()
        assert hashlib.sha256(data[32:]).digest() == data[:32], "an unreadable checkpoint"


def resumes(count):
    """Interrupts and resumes runs of all modes in turn: each gives the bytes of an uninterrupted run."""
    options = ["--epochs", "8", "--batch-size", "8", "--image-size", "24"]
    with training_folder():
        true = {mode: uninterrupted(mode, *options) for mode in MODES}
        random, points, codes = Random(0), 0, {}
        while points < count:
            mode = list(MODES)[points % len(MODES)]
            digest, seconds = true[mode]
            job, number = Job(mode, *options), random.choice([signal.SIGINT, signal.SIGTERM])
            code = job.wait(random.uniform(0, seconds))
            if code is None:
                code = job.end(number)
            if os.path.exists(f"checkpoint_{mode}"):
                assert code == 128 + number, log()
                assert Job(mode, *options, "--resume").wait() == 0, log()
                assert "Resumed in epoch" in log() and model(mode) == digest
                codes[code] = codes.get(code, 0) + 1
                points += 1
    print(f"{points} training runs interrupted at random moments (exit codes: {codes}) and resumed: "
          f"{points} identical models")


class training_folder(tempfile.TemporaryDirectory):
    """A new folder with photos to train on. Inside the block it is the working folder."""

    def __enter__(self):
        self.before = os.getcwd()
        os.chdir(super().__enter__())
        for name in ("train", "test"):
            make_photos(Path(name), count=12)

    def __exit__(self, *exception):
        os.chdir(self.before)
        super().__exit__(*exception)
