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
import platform
import shlex
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from typing import NamedTuple

from scene import errors, files, memory, processes
from scene.answer import metrics, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.errors import UserError, explain, listed, printable
from scene.learn import recipe
from scene.learn.check import NetworkError, check
from scene.learn.output import Output
from scene.models import MODES
from scene.photos import folder
from scene.photos.findings import table
from scene.signals import Stopped
from scene.version import VERSION

LEAST_IMAGE_SIZE = 8
FEW_PHOTOS = 100            # for a class
LESS_MEMORY = "A new run in another --output needs less memory with a smaller --batch-size or --image-size."
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
    classifier, test_photos, findings = load_test(options)
    report = test(classifier, options.load_model, test_photos, findings)
    report |= {"settings": {"mode": options.mode, "image_size": classifier.image_size}}
    write_report(output.evaluation, report, options, started)
    say_result(report, options.load_model, output.evaluation, started)


def train_and_test(options, output, started):
    """Trains, saves and tests a network. The checkpoint stays until all other files are written."""
    resumed = options.resume and os.path.exists(output.checkpoint)
    teacher = open_teacher(options)
    train_photos, test_photos, findings = load_both(options)
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
    return report | {"leaks": folder.count_leaks(findings),
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
    check_memory(listings, options.image_size, "Choose a smaller --image-size{}, or use fewer photos.")
    sets, findings = load(listings, classes, options.image_size, findings, options.skip_bad)
    say_findings(findings)
    return *sets, findings


def load_test(options):
    """The Classifier of --load-model, the photos of TEST, and the findings, as in `load_both`."""
    classifier = Classifier.open(options.load_model)
    check_mode(options.load_model, classifier.mode, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: {listed(classes)}")
    listing = folder.scan(options.test)
    say_listings([listing])
    findings = folder.check_test(classes, listing)
    check_memory([listing], classifier.image_size, "Divide TEST into parts, and test one after another.")
    sets, findings = load([listing], classes, classifier.image_size, findings, options.skip_bad)
    say_findings(findings)
    return classifier, *sets, findings


def check_memory(listings, size, advice):
    """Raises UserError if the decoded photos cannot fit into the memory.   {} in advice: what would fit."""
    photos = sum(len(listing.paths) for listing in listings)
    needed = photos * size * size * 3
    free = memory.available()
    if needed > free:
        largest = math.isqrt(int(0.8 * free) // (3 * photos))           # training needs some, too
        fits = f", at most {largest}" if largest >= LEAST_IMAGE_SIZE else ""
        raise UserError(f"{photos} photos of {size}x{size} pixels need {memory.size(needed)} of memory, but "
                        f"only {memory.size(free)} are free. {advice.format(fits)}")


def load(*arguments):
    """Calls folder.load, and says what helps if memory runs out."""
    try:
        return folder.load(*arguments)
    except (MemoryError, OSError, RuntimeError) as error:
        if not memory.is_exhausted(error):
            raise
        raise UserError(f"{memory.describe(error)} Close other programs, or choose a smaller --image-size.") \
            from error


def say_listings(listings):
    """Prints how many photos each folder has in each class, and the files passed over."""
    for listing in listings:
        counts = [f"{printable(name)} {len(photos)}" for name, photos in listing.photos.items()]
        print(f"{printable(listing.folder)}: {len(listing.paths)} photos of {len(counts)} classes: "
              f"{listed(counts) or 'none'}")
        if listing.passed_over:
            kinds = [f"{count} {printable(kind)}" for kind, count in sorted(listing.passed_over.items())]
            print(f"  passed over: {', '.join(kinds)}")
    sys.stdout.flush()


def say_findings(findings):
    """Prints the table of findings, if there are any."""
    if findings:
        print(table(findings), flush=True)


def train_and_save(photos, teacher, options, output):
    """Trains a network, writes its model file, and returns the Classifier in that file, and how it was made.

    If the model is already there, written by the same run, nothing is trained.
    """
    import torch  # takes a second, so not before the first lines are on the screen

    from scene.learn.checkpoint import Checkpoint, describe
    from scene.learn.loop import LOSSES, train
    from scene.learn.precision import fastest

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

    made = {"settings": shown, "run": describe(options.mode, network, photos, settings, source)}
    checkpoint = Checkpoint(output.checkpoint, made["run"])
    if options.resume and not os.path.exists(output.checkpoint):
        history = find_history(output, made["run"])
        if history is not None:
            return Classifier.open(output.model), made | {"history": history}
    pixels, labels = (torch.from_numpy(array).to(options.device) for array in (photos.pixels, photos.labels))
    with saving_diverged(network, card, checkpoint, output):
        history = train(network, pixels, labels, settings, source, checkpoint)
    data = modelfile.encode(network, card)
    output.keep_previous(data)
    files.write(output.model, data)
    classifier = Classifier.open(output.model)      # the test asks the file that will be deployed
    epochs = [{"epoch": i, "loss": loss, "accuracy": right} for i, (loss, right) in enumerate(history, 1)]
    return classifier, made | {"history": epochs}


def find_history(output, run):
    """The history of the finished run that wrote the model in --output, if it is this run, or None."""
    from scene.learn.checkpoint import compare

    report = output.finished()
    if not report:
        return None
    if differences := compare(report["run"], run):
        print(f"Note: {printable(output.model)} is of another run ({'; '.join(differences)}), so training "
              "starts from the beginning.", flush=True)
        return None
    print(f"This run is finished, and {printable(output.model)} is its model: nothing is trained.",
          flush=True)
    return report["history"]


@contextmanager
def saving_diverged(network, card, checkpoint, output):
    """Writes the last good weights as a model if the training in the block diverges."""
    from scene.learn.progress import Diverged

    try:
        yield
    except Diverged as error:
        if not checkpoint.restore(network):         # somebody has deleted it
            raise
        modelfile.save(output.diverged, network, card)
        checkpoint.remove()
        raise Diverged(f"{error} The last good weights are in {printable(output.diverged)}, a model file "
                       "like any other.") from error


@contextmanager
def resumable(output, how):
    """Adds to the message of an error or stop signal how to continue the run.   how: what --resume does."""
    try:
        yield
    except Exception as error:
        there = os.path.exists(output.checkpoint)
        advice = f" The same command with --resume {how}." if there else ""
        if memory.is_exhausted(error):
            text = f"{memory.describe(error)} Close other programs.{advice} {LESS_MEMORY}"
            raise UserError(text) from error
        if isinstance(error, processes.WorkerKilled):
            raise UserError(f"{error}{advice} {LESS_MEMORY}") from error
        if isinstance(error, OSError):
            raise UserError(f"{explain(error)}{advice}") from error
        if not isinstance(error, UserError):
            error.add_note(advice.strip())
        raise
    except Stopped as error:
        if str(error) != Stopped.MESSAGE or not os.path.exists(output.checkpoint):
            raise
        raise Stopped(error.number, f"{error} The same command with --resume {how}.") from error


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
    add("--image-size", type=number(int, LEAST_IMAGE_SIZE, 512), metavar="N",
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
