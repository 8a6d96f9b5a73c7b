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
from contextlib import suppress
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

    def __init__(self, mode, *options, log="log"):
        Path(log).unlink(missing_ok=True)
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)    # a background job would ignore it
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
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


def model(mode, folder="."):
    """The SHA-256 of the model that was written, in hex."""
    return digest_of(f"{folder}/model_{mode}")


def digest_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def log(path="log"):
    """The output of the last run."""
    return Path(path).read_text() if os.path.exists(path) else ""


def uninterrupted(mode, *options, folder="."):
    """Trains without a break: -> (the model's SHA-256, the seconds it took)."""
    started = time.monotonic()
    code = Job(mode, *options).wait()
    assert code == 0, log()
    return model(mode, folder), time.monotonic() - started


def kills(count):
    """Kills runs that save at every step, until `count` kills have hit a save. Each run resumes the last.

    A third of the kills come at a random moment, a third within milliseconds of the next save after one, and
    a third after the last step, while the model, the test and the metrics are under way.
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
                into_save = random.uniform(0, 0.01) if runs % 3 else None
                code = kill(job, random.uniform(0, seconds / 3), into_save)
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
                results = [f"metrics_{mode}.json", f"model_{mode}", f"report_{mode}.html"]
                assert sorted(os.listdir()) == ["log", *results, "test", "train"]
                forget(mode)
        assert Job(mode, *options).wait() == 0, log()
        assert model(mode) == true and metrics(mode)["history"] == history
    print(f"{runs} runs killed at random moments, {inside} of them inside a save: 0 unreadable files; "
          f"{late} were killed after the last step; {resumed} resumed the run before, {tested} of them with "
          f"nothing left to train; {finished + 1} trainings ended, each with the bytes and the history of "
          "the "
          "uninterrupted one")


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


def pairs(count):
    """Two trainings that begin within 0.1 s in one folder, beside a test of a model. Some are killed.

    At most one trains at a time, and its model and metrics are what it reported.
    """
    mode = "FCNN"
    options = ["--epochs", "40", "--batch-size", "12", "--image-size", "8"]
    with training_folder():
        checkpoint.PAUSE = 0
        true = []
        for seed in range(2):
            other = ["--output", "other", "--seed", str(seed)]
            digest, seconds = uninterrupted(mode, *options, *other, folder="other")
            true.append(digest)
        random = Random(0)
        codes = {}
        for i in range(count):
            jobs = []
            for seed in range(2):
                jobs.append(Job(mode, *options, "--resume", "--seed", str(seed), log=f"log{seed}"))
                time.sleep(random.uniform(0, 0.1))
            test = Job(mode, "--load-model", f"other/model_{mode}", log="log2")
            if i % 2:
                time.sleep(random.uniform(0, seconds))
                with suppress(ProcessLookupError):
                    os.kill(jobs[random.randrange(2)].pid, signal.SIGKILL)
            ended = [job.wait() for job in jobs]
            assert test.wait() == 0, log("log2")
            for seed, code in enumerate(ended):
                codes[code] = codes.get(code, 0) + 1
                assert code in (0, 2, -signal.SIGKILL), log(f"log{seed}")
                said = log(f"log{seed}")
                told = "Another run writes to . (" in said or "belongs to another run" in said
                assert (code == 2) == told, (code, said)
                kept = [path for path in (f"model_{mode}", f"previous_{mode}") if os.path.exists(path)]
                assert code or true[seed] in map(digest_of, kept), said
            if 0 in ended:
                assert metrics(mode)["model"]["sha256"] == model(mode)
            check_readable(f"checkpoint_{mode}")
            for path in Path().glob(f"*_{mode}*"):              # the lock of a killed run, too
                path.unlink()
    print(f"{count} pairs of trainings in one folder, each beside a test of a model: exit codes {codes}; no "
          "model was lost or reported by two, and every test ended")


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
