"""Train a network on folders of photos, test it, save it.

    python -m scene.main TRAIN TEST MODE

TRAIN and TEST hold a folder of photos for each class. Start reading at `run`. Its steps follow, and then the
options of the command.

Next: predict.py
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import NamedTuple

from scene import errors, files, processes
from scene.answer import metrics, modelfile
from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.learn import recipe
from scene.learn.check import NetworkError, check
from scene.models import MODES
from scene.photos import folder
from scene.photos.findings import table
from scene.signals import Stopped

EXIT_CODES = """\
exit codes:
  0    done
  1    an unexpected failure
  2    a mistake in the command, in a folder or in a photo, or a file that cannot be written
  3    training diverged
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by a closed terminal
"""


def run(options):
    """Trains a network or loads a model, tests it, and writes and prints the metrics."""
    started = time.monotonic()
    output = prepare_output(options)
    check_device(options.device)
    if options.load_model:
        classifier, test_photos, findings = load_test(options)
    else:
        teacher = open_teacher(options)
        train_photos, test_photos, findings = load_both(options)
        classifier = train_and_save(train_photos, teacher, options, output)

    model = options.load_model or output.model
    with modelfile.named(model):
        probabilities = classifier.probabilities(test_photos.pixels, processes.parallel_map)
    report = {"mode": options.mode, **metrics.evaluate(test_photos.labels, probabilities, classifier.classes)}
    report["seconds"] = round(time.monotonic() - started, 2)
    report["findings"] = [finding._asdict() for finding in findings]
    files.write(output.metrics, json.dumps(report, indent=1).encode())
    print(metrics.describe(report))
    print(f"Model: {printable(model)}, metrics: {printable(output.metrics)}, "
          f"total time: {report['seconds']:.1f} s")


class Output(NamedTuple):
    """The files of a run."""

    model: str
    metrics: str
    checkpoint: str
    diverged: str           # the last good weights of a run that diverged, as a model


def prepare_output(options):
    """The paths to write, checked to be writable before training begins. Raises UserError or OSError."""
    os.makedirs(options.output, exist_ok=True)
    names = ("model_{}", "metrics_{}.json", "checkpoint_{}", "diverged_{}")
    output = Output(*(os.path.join(options.output, name.format(options.mode)) for name in names))
    for path in output:
        if os.path.isdir(path):
            raise UserError(f"{printable(path)} is a folder, but Scene writes a file there: choose another "
                            "--output.")
    if os.path.exists(output.checkpoint) and not options.resume and not options.load_model:
        raise UserError(f"{printable(output.checkpoint)} is the checkpoint of an interrupted run: add "
                        "--resume to continue it, or delete it to start over.")
    if options.resume and not os.path.exists(output.checkpoint):
        print(f"Note: there is no {printable(output.checkpoint)} to resume from, so training starts from the "
              "beginning.")
    for path in [output.metrics] if options.load_model else output:     # tests leave other runs' files alone
        files.sweep(path)
    check_writable(options.output)
    return output


def check_writable(folder):
    """Raises UserError unless files can be made in a folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be written to ({error.strerror}): choose another "
                        "--output.") from error


def check_device(device):
    """Raises UserError if the device is not available."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device here. Leave the option out to train "
                            "on the CPU.")


class Teacher(NamedTuple):
    """A trained network to start from."""

    network: object
    started_from: dict      # the entry of this name in the new model's card


def open_teacher(options):
    """The Teacher that --start-from names, or None. Sets options.image_size if it is not given."""
    if not options.start_from:
        options.image_size = options.image_size or MODES[options.mode].image_size
        return None
    with open(options.start_from, "rb") as file:
        data = file.read()
    with modelfile.named(options.start_from):
        network, card = modelfile.load(data)
    check_mode(options.start_from, card["mode"], options.mode)
    options.image_size = options.image_size or network.image_size
    return Teacher(network, modelfile.describe_source(data, card))


def check_mode(path, found, wanted):
    """Raises UserError if a model is not of the mode that the command names."""
    if found != wanted:
        raise UserError(f"{printable(path)} is a model of mode {found}, not {wanted}: name the mode it has.")


def load_both(options):
    """Photos of TRAIN and TEST, and the findings, which it prints. Raises DataError with every problem."""
    listings = [folder.scan(path) for path in (options.train, options.test)]
    say_listings(listings)
    classes = listings[0].classes
    findings = folder.check(*listings)
    sets, findings = folder.load(listings, classes, options.image_size, findings, options.skip_bad)
    say_findings(findings)
    return *sets, findings


def load_test(options):
    """The Classifier of --load-model, the photos of TEST, and the findings, as in `load_both`."""
    classifier = Classifier.open(options.load_model)
    check_mode(options.load_model, classifier.mode, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: "
          f"{', '.join(classes)}")
    listing = folder.scan(options.test)
    say_listings([listing])
    findings = folder.check_test(classes, listing)
    sets, findings = folder.load([listing], classes, classifier.image_size, findings, options.skip_bad)
    say_findings(findings)
    return classifier, *sets, findings


def say_listings(listings):
    """Prints how many photos each folder has in each class, and the files passed over."""
    for listing in listings:
        counts = [f"{printable(name)} {len(photos)}" for name, photos in listing.photos.items()]
        print(f"{printable(listing.folder)}: {len(listing.paths)} photos of {len(counts)} classes: "
              f"{', '.join(counts) or 'none'}")
        if listing.passed_over:
            kinds = [f"{count} {printable(kind)}" for kind, count in sorted(listing.passed_over.items())]
            print(f"  passed over: {', '.join(kinds)}")
    sys.stdout.flush()


def say_findings(findings):
    """Prints the table of findings, if there are any."""
    if findings:
        print(table(findings), flush=True)


def train_and_save(photos, teacher, options, output):
    """Trains a network, writes its model file, and returns the Classifier in that file."""
    import torch  # takes a second, so not before the first lines are on the screen

    from scene.learn.checkpoint import Checkpoint, describe
    from scene.learn.loop import LOSSES, train
    from scene.learn.precision import fastest
    from scene.learn.progress import Diverged

    source = teacher and teacher.network
    network = make_network(options, len(photos.classes), source)
    about = {"started_from": teacher.started_from} if teacher else {}
    card = modelfile.make_card(network, options.mode, photos.classes, **about)
    if options.precision == "auto":
        options.precision = fastest(options.device)
    settings = make_settings(options, len(photos.labels))
    check_network(network, card, settings)
    shown = {"mode": options.mode, "image_size": options.image_size, **vars(settings)}
    words = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items()]
    print(f"Settings: {', '.join(words)}", flush=True)
    if least := LOSSES[settings.loss]().least(len(photos.classes)):
        print(f"Labels are smoothed, so the smallest possible loss is {least:.2f}.", flush=True)

    pixels, labels = (torch.from_numpy(array).to(options.device) for array in (photos.pixels, photos.labels))
    checkpoint = Checkpoint(output.checkpoint, describe(options.mode, network, photos, settings, source))
    with resumable(output.checkpoint):
        try:
            train(network, pixels, labels, settings, source, checkpoint)
        except Diverged as error:
            if not checkpoint.restore(network):         # somebody has deleted it
                raise
            modelfile.save(output.diverged, network, card)
            checkpoint.remove()
            raise Diverged(f"{error} The last good weights are in {printable(output.diverged)}, a model file "
                           "like any other.") from error
        modelfile.save(output.model, network, card)
        classifier = Classifier.open(output.model)      # the test asks the file that will be deployed
        checkpoint.remove()                             # only now: the file is known to open
    return classifier


@contextmanager
def resumable(checkpoint):
    """Adds to the message of a stop signal or a killed worker how to continue the run."""
    advice = "The same command with --resume continues from the last checkpoint."
    try:
        yield
    except processes.WorkerKilled as error:
        raise UserError(f"{error} A smaller --batch-size needs less memory. {advice}") from error
    except Stopped as error:
        if str(error) != Stopped.MESSAGE or not os.path.exists(checkpoint):
            raise
        raise Stopped(error.number, f"{error} {advice}") from error


def make_network(options, classes, teacher):
    """A new network of the chosen mode, with the architecture of the teacher if there is one."""
    architecture = (teacher.architecture if teacher else {}) | {"image_size": options.image_size}
    return MODES[options.mode].network(classes, **architecture)


def check_network(network, card, settings):
    """Raises NetworkError unless the network can be trained, and its model file opened again."""
    check(network, settings, len(card["classes"]))
    try:
        modelfile.check(network, card)
    except modelfile.ModelFileError as error:
        raise NetworkError(f"{card['mode']} cannot be trained, since its model file could not be "
                           f"read back: {error}.") from error


def make_settings(options, photos):
    """The settings of a run: the options that are given, and the defaults for the others."""
    settings = recipe.defaults(MODES[options.mode], photos, trained=bool(options.start_from))
    names = recipe.Settings.__dataclass_fields__
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    return recipe.Settings(**settings | given)


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
    add("--image-size", type=number(int, 8, 512), metavar="N",
        help=f"photos are resized to NxN pixels (default: {default('image_size')})")
    add("--loss", choices=["cross-entropy", "mse"], help="the loss to minimise (default: cross-entropy)")
    add("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto",
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
