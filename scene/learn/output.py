"""The files of a training run: which they are, who may write them, and what becomes of older ones.

Everything that could go wrong after hours of training is tried before: whether each file can be made or
replaced, and whether another run writes the same ones.

Next: calibrate.py
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack, contextmanager

from scene import files
from scene.errors import UserError, printable
from scene.learn.checkpoint import CheckpointError
from scene.locks import Locked, locked

OTHER = "choose another --output"


class Output:
    """The paths of a run's files in a folder.

    model       the trained network                     metrics     how good it is, and how it was made
    previous    the model that it replaced              checkpoint  there until all others are written
    diverged    the last good weights, as a model, of a run that diverged
    folds       the answers of the finished folds of a cross-validation, until all others are written
    split       which photos of a single folder were trained on, and which tested on
    evaluation  the metrics of a model that was only tested, with --load-model
    report      the metrics as a page to look at, of the last training or test
    """

    def __init__(self, folder, mode):
        self.folder = folder
        self.mode = mode
        self.model = os.path.join(folder, f"model_{mode}")
        self.previous = os.path.join(folder, f"previous_{mode}")
        self.metrics = os.path.join(folder, f"metrics_{mode}.json")
        self.checkpoint = os.path.join(folder, f"checkpoint_{mode}")
        self.diverged = os.path.join(folder, f"diverged_{mode}")
        self.folds = os.path.join(folder, f"folds_{mode}")
        self.split = os.path.join(folder, f"split_{mode}.csv")
        self.evaluation = os.path.join(folder, f"evaluation_{mode}.json")
        self.report = os.path.join(folder, f"report_{mode}.html")
        self.lock = os.path.join(folder, f".training_{mode}.lock")

    @property
    def of_training(self):
        """The files that a training run may write, the lock apart."""
        return (self.model, self.previous, self.metrics, self.checkpoint, self.diverged, self.folds,
                self.split, self.report)

    @property
    def unfinished(self):
        """The files from which --resume continues: those that there are."""
        return [path for path in (self.checkpoint, self.folds) if os.path.exists(path)]

    @contextmanager
    def claimed(self, resume=False):
        """Keeps other training runs of this mode out of the folder, and has every file checked beforehand.

        Runs of other modes, and tests of a model, may work in the folder at the same time. Raises UserError
        or OSError.
        """
        os.makedirs(self.folder, exist_ok=True)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        note = f"process {os.getpid()} on {platform.node()}, since {since}"
        with ExitStack() as stack:
            try:
                with writable(self.folder):
                    real = stack.enter_context(locked(self.lock, f"training of {self.mode}: {note}"))
            except Locked as error:
                who = str(error) or f"training of {self.mode}"
                raise UserError(f"Another run writes to {printable(self.folder)} ({who}): wait until it "
                                f"ends, or {OTHER}.") from error
            if not real:
                print(f"Note: files in {printable(self.folder)} cannot be locked, so let no other training "
                      f"of {self.mode} write there before this one ends.", flush=True)
            self.prepare(resume)
            yield

    def prepare_evaluation(self):
        """Checks that the evaluation can be written. It needs no lock, and leaves all other files alone."""
        os.makedirs(self.folder, exist_ok=True)
        check_files([self.evaluation, self.report])

    def prepare(self, resume):
        """Checks that every file can be written, and deletes what killed runs left half-written."""
        check_files(self.of_training)
        for path in self.of_training:
            files.sweep(path)
        if not self.unfinished:
            if resume and not self.finished():
                print(f"Note: there is no {printable(self.checkpoint)} to resume from, so training starts "
                      "from the beginning.", flush=True)
            return
        for path in self.unfinished:
            try:
                files.replace_by_copy(path)             # never in place: a kill could ruin it
            except OSError as error:
                if error.errno not in files.CANNOT_REPLACE:
                    raise
                raise CheckpointError(f"{printable(path)} cannot be replaced ({error.strerror}), but every "
                                      "save replaces it: mount or share its folder instead, or "
                                      f"{OTHER}.") from error
        if not resume:
            raise UserError(f"{printable(self.unfinished[0])} is the checkpoint of an interrupted run: add "
                            f"--resume to continue it, or {OTHER} to start a new run.")

    def keep_previous(self, data):
        """Keeps a copy of the model file that these bytes will replace, and says so. Raises OSError."""
        if not os.path.exists(self.model):
            return
        with open(self.model, "rb") as file:
            before = file.read()
        if before not in (b"", data):             # a file that was made to be mounted is empty
            files.write(self.previous, before)
            print(f"The older {printable(self.model)} is now {printable(self.previous)}.", flush=True)

    def finished(self):
        """The metrics of the run that wrote the model in the folder, or None if there is no such pair."""
        try:
            with open(self.metrics, "rb") as file:
                report = json.load(file)
            with open(self.model, "rb") as file:
                sha256 = hashlib.sha256(file.read()).hexdigest()
        except (OSError, ValueError):
            return None
        ours = isinstance(report, dict) and isinstance(report.get("run"), dict)
        return report if ours and report.get("model", {}).get("sha256") == sha256 else None


@contextmanager
def writable(folder):
    """Explains an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be written to ({error.strerror}): {OTHER}.") from error


def check_files(paths):
    """Raises UserError unless each file can be made or replaced."""
    for folder in {os.path.dirname(os.path.realpath(path)) for path in paths}:
        with writable(folder):
            tempfile.TemporaryFile(dir=folder).close()
    for path in paths:
        target = os.path.realpath(path)
        if os.path.isdir(target):
            raise UserError(f"{printable(path)} is a folder, but Scene writes a file there: {OTHER}.")
        if os.path.lexists(target) and not os.path.isfile(target):
            raise UserError(f"{printable(path)} is not a regular file, so Scene cannot replace it: {OTHER}.")
        try:
            if os.path.exists(target):
                files.check_writable(target)
        except OSError as error:
            raise UserError(f"{printable(path)} cannot be replaced ({error.strerror}): {OTHER}.") from error
