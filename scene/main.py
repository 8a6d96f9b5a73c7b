"""Train a network on folders of photos, test it, save it.

    python -m scene.main TRAIN TEST MODE

TRAIN and TEST hold a folder of photos for each class. Start reading at `run`. Its steps follow, and then the
options of the command. photos/sets.py reads the photos, and learn/run.py trains.

Next: predict.py
"""

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from importlib.metadata import version

from scene import errors, files, processes
from scene.answer import metrics, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.errors import UserError, listed, printable
from scene.learn import recipe
from scene.learn.output import Output
from scene.learn.run import check_mode, open_teacher, resumable, train_and_save
from scene.models import MODES
from scene.photos import folder, sets
from scene.version import VERSION

FEW_PHOTOS = 100            # for a class
EXIT_CODES = """\
exit codes:
  0    done
  1    an unexpected failure
  2    a mistake in the command, in a folder or in a photo, or a file that cannot be written
  3    training diverged
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by a closed terminal
"""


def run(options):
    """Trains a network or only tests a model, and writes and prints the metrics."""
    started = time.monotonic()
    errors.outlast_reader()
    check_device(options.device)
    output = Output(options.output, options.mode)
    if options.load_model:
        test_model(options, output, started)
    else:
        with output.claimed(options.resume):
            train_and_test(options, output, started)


def test_model(options, output, started):
    """Tests the model of --load-model. Of the files in --output it writes only the evaluation."""
    output.prepare_evaluation()
    classifier = Classifier.open(options.load_model)
    check_mode(options.load_model, classifier.mode, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: {listed(classes)}")
    test_photos, findings = sets.load_test(options.test, classes, classifier.image_size, options.skip_bad)
    report = test(classifier, options.load_model, test_photos, findings)
    report |= {"settings": {"mode": options.mode, "image_size": classifier.image_size}}
    write_report(output.evaluation, report, options, started)
    say_result(report, options.load_model, output.evaluation, started)


def train_and_test(options, output, started):
    """Trains, saves and tests a network. The checkpoint stays until all other files are written."""
    resumed = options.resume and os.path.exists(output.checkpoint)
    teacher = open_teacher(options)
    photos = options.train, options.test, options.image_size, options.skip_bad
    train_photos, test_photos, findings = sets.load_both(*photos)
    with resumable(output, "continues from the last checkpoint"):
        classifier, about = train_and_save(train_photos, teacher, options, output)
    with resumable(output, "goes straight to the test"):
        report = test(classifier, output.model, test_photos, findings) | about
        write_report(output.metrics, report, options, started)
        files.remove(output.checkpoint)
    say_result(report, output.model, output.metrics, started, resumed)
    say_next(report, train_photos, options, output)


def test(classifier, path, photos, findings):
    """The metrics of a model, by its path, on the photos of TEST."""
    with modelfile.named(path):
        probabilities = classifier.probabilities(photos.pixels, processes.parallel_map)
    report = {"mode": classifier.mode, **metrics.evaluate(photos.labels, probabilities, classifier.classes)}
    return report | {**folder.count_leaks(findings),
                     "findings": [finding._asdict() for finding in findings],
                     "model": {"path": path, "sha256": classifier.sha256}}


def write_report(path, report, options, started):
    """Adds the circumstances to a report and writes it: a line of JSON for each entry."""
    folders = {"test": os.path.abspath(options.test)}
    if not options.load_model:
        folders["train"] = os.path.abspath(options.train)
    packages = {name: version(name) for name in ("torch", "numpy", "pillow")}
    versions = {"scene": VERSION, "python": platform.python_version(), **packages}
    report |= {"folders": folders, "versions": versions, "seconds": round(time.monotonic() - started, 2)}
    entries = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in report.items()]
    files.write(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def say_result(report, model, path, started, resumed=False):
    """Prints the metrics, what spoils them, the files, and the time: everything is written."""
    print(metrics.describe(report))
    if report["leaks"]:
        print(f"\nThis accuracy is too high: {report['leaks']} of the {report['photos']} test photos are "
              "also training photos. Keep each photo in only one of the two folders.")
    words = "time since it was resumed" if resumed else "total time"
    print(f"Model: {printable(model)}, metrics: {printable(path)}, {words}: "
          f"{time.monotonic() - started:.1f} s")


def say_next(report, photos, options, output):
    """Prints what would help most, where photos are few, and the next command."""
    average = len(photos.labels) / len(photos.classes)
    pretrained = not options.start_from and PRETRAINED.get(options.mode)
    if average < FEW_PHOTOS:
        also = f", and then --start-from {shown_path(pretrained)}" if pretrained else ""
        print(f"Each class has {average:.0f} training photos on average. More of them would help most{also}.")
    print(f"Next: python -m scene.predict PHOTO --model {shown_path(output.model)}")


def shown_path(path):
    """A path as an argument for a shell, relative if it is below the current folder."""
    relative = os.path.relpath(path)
    return shlex.quote(printable(path if relative.startswith(os.pardir) else relative))


def check_device(device):
    """Raises UserError if the device is not available."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device here. Leave the option out to train "
                            "on the CPU.")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.main",
        description="Train a network that sorts photos into scenes, test it and save it.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("train", metavar="TRAIN", help="folder of photos to train on, with a subfolder for each class")
    add("test", metavar="TEST", help="folder of other photos to test on, with the same subfolders")
    modes = [f"{mode} ({entry.help})" for mode, entry in MODES.items()]
    add("mode", metavar="MODE", type=str.upper, choices=list(MODES),
        help=f"{' or '.join(modes)}, in upper or lower case")
    add("--epochs", type=number(int, 1),
        help=f"how many times to show each photo (default: {default('epochs')})")
    add("--batch-size", type=number(int, 2), help=f"photos in each step (default: {default('batch_size')})")
    add("--learning-rate", type=number(float, 1e-9),
        help=f"the highest rate (default: {default('learning_rate')}, or a tenth with --start-from)")
    add("--image-size", type=number(int, sets.LEAST_SIZE, 512), metavar="N",
        help=f"photos are resized to NxN pixels (default: {default('image_size')})")
    add("--loss", choices=["cross-entropy", "mse"], help="the loss to minimise (default: cross-entropy)")
    add("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    add("--precision", choices=["auto", *recipe.PRECISIONS], default="auto",
        help="of large products in training (default: auto, the faster one on this machine)")
    add("--output", metavar="FOLDER", default=".",
        help="where to write model and metrics (default: the current folder)")
    add("--resume", action="store_true", default=None,
        help="continue an interrupted run in --output, if there is one")
    add("--start-from", metavar="PATH", help="start from the weights of this model, except the last layer's")
    add("--load-model", metavar="PATH", help="test this model without training (TRAIN is not read)")
    add("--skip-bad", action="store_true", help="leave out photos that cannot be used, and list them")
    options = parser.parse_args(arguments)
    training = ("epochs", "batch_size", "learning_rate", "image_size", "loss", "seed", "start_from", "resume")
    given = [name for name in training if getattr(options, name) is not None]
    if options.load_model and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        print(f"Note: nothing is trained, so {names} has no effect.")
    return options


def default(name):
    """A setting's default in every mode, for --help: "FCNN 80, CNN 36 for 9000 photos, more for fewer"."""
    numbers = []
    for mode, entry in MODES.items():
        depends = entry.few_photos and name in ("epochs", "learning_rate")
        photos = f" for {recipe.TYPICAL_PHOTOS} photos, more for fewer" if depends else ""
        numbers.append(f"{mode} {getattr(entry, name)}{photos}")
    return ", ".join(numbers)


def number(kind, least, most=math.inf):
    """An argparse type: a number of this kind from least to most."""
    def parse(text):
        value = kind(text)
        if not least <= value <= most:
            allowed = f"is not from {least} to {most}" if most < math.inf else f"is less than {least}"
            raise argparse.ArgumentTypeError(f"{text} {allowed}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
