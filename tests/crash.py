"""Trainings that are killed or interrupted at random moments, and gone on with.

Each run is a fork of this process, which has loaded torch already: a hundred runs take a minute and not ten. It must be a process of
its own, without other threads. tests/test_checkpoint.py starts a few runs; `python -m tests.bench.soak kills` and `resumes`, as many
as you like.
"""

import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path
from random import Random

import scene.models  # noqa: F401  (loaded here, once for all)
import scene.train  # noqa: F401
from scene import checkpoint, command, main
from tests.test_main import make_photos

SLOW = 60       # seconds after which a run hangs


class Job:
    """`python -m scene.main train test MODE` in a fork, its output in the file `log`."""

    def __init__(self, mode, *options):
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)        # in the background it would be ignored
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            try:
                os._exit(command.run(main.run, main.parse(["train", "test", mode, *options])))
            finally:
                os._exit(99)

    def wait(self, seconds=SLOW):
        """The exit code, None if it still runs after so many seconds. A signal's exit code is -number."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        return None

    def end(self, number):
        """Sends it a signal; returns its exit code."""
        os.kill(self.pid, number)
        return self.wait()


def model(mode):
    """The SHA-256 of the model that was written, in hex."""
    return hashlib.sha256(Path(f"model_{mode}").read_bytes()).hexdigest()


def uninterrupted(mode, *options):
    """Trains without a break: -> the model's SHA-256, and how many seconds it took."""
    started = time.monotonic()
    code = Job(mode, *options).wait()
    assert code == 0, Path("log").read_text()
    return model(mode), time.monotonic() - started


def kills(count):
    """Kills trainings that save at every step until so many kills have hit a save. Each run goes on from the last.

    Half of the kills come at a random moment, half in the milliseconds after the first save that begins at a random moment or later.
    """
    options = ["--epochs", "40", "--batch-size", "12", "--image-size", "8", "--resume"]
    with training_folder():
        checkpoint.PAUSE = 0
        true, seconds = uninterrupted("FCNN", *options)
        random, runs, inside, resumed, finished = Random(0), 0, 0, 0, 0
        while inside < count:
            runs += 1
            there = os.path.exists("checkpoint_FCNN")
            job = Job("FCNN", *options)
            code = job.wait(random.uniform(0, seconds / 3))
            while runs % 2 and code is None and not list(Path().glob(f"*.{job.pid}.part")):
                code = job.wait(0.0001)
            if code is None:
                time.sleep(random.uniform(0, 0.01) * (runs % 2))
                code = job.end(signal.SIGKILL)
            if code == -signal.SIGKILL:
                inside += bool(list(Path().glob(f"*.{job.pid}.part")))         # it was written, and not yet in its place
            else:                                                               # it came to its end, if only just
                assert code == 0 and model("FCNN") == true, Path("log").read_text()
                finished += 1
            if said := Path("log").read_text():
                assert "Traceback" not in said and "damaged" not in said
                resumed += there and "Resumed in epoch" in said
            if os.path.exists("checkpoint_FCNN"):
                data = Path("checkpoint_FCNN").read_bytes()
                assert hashlib.sha256(data[32:]).digest() == data[:32], "an unreadable checkpoint"
        assert Job("FCNN", *options).wait() == 0 and model("FCNN") == true
    print(f"{runs} runs, killed at random moments, {inside} of them inside a save: 0 unreadable files; {resumed} went on from the run "
          f"before; {finished + 1} trainings came to their end this way, each with the uninterrupted one's bytes")


def resumes(count):
    """Interrupts trainings at random moments and goes on, of both modes in turn: the model is the uninterrupted one's, to the byte."""
    options = ["--epochs", "8", "--batch-size", "8", "--image-size", "24"]
    with training_folder():
        true = {mode: uninterrupted(mode, *options) for mode in ("FCNN", "CNN")}
        random, points, codes = Random(0), 0, {}
        while points < count:
            mode = ("FCNN", "CNN")[points % 2]
            digest, seconds = true[mode]
            job, number = Job(mode, *options), random.choice([signal.SIGINT, signal.SIGTERM])
            code = job.wait(random.uniform(0, seconds))
            if code is None:
                code = job.end(number)
            if os.path.exists(f"checkpoint_{mode}"):
                assert code == 128 + number, Path("log").read_text()
                assert Job(mode, *options, "--resume").wait() == 0, Path("log").read_text()
                assert "Resumed in epoch" in Path("log").read_text() and model(mode) == digest
                codes[code] = codes.get(code, 0) + 1
                points += 1
    print(f"{points} trainings interrupted at random moments (exit codes: {codes}) and gone on with: {points} identical models")


class training_folder(tempfile.TemporaryDirectory):
    """Within it, the working folder is a new one with photos to train on."""

    def __enter__(self):
        self.before = os.getcwd()
        os.chdir(super().__enter__())
        for name in ("train", "test"):
            make_photos(Path(name), count=12)

    def __exit__(self, *exception):
        os.chdir(self.before)
        super().__exit__(*exception)
