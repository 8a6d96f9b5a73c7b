"""Train a network on folders of photos, test it, save it.

    python -m scene.main TRAIN TEST {FCNN,CNN}

TRAIN and TEST hold a folder of photos for each class. The whole story is `run`; above it, what it is made of; below, its options.
"""

import argparse
import json
import math
import os
import sys
import time
from typing import NamedTuple

from scene import command, folder, metrics, modelfile
from scene.checkpoint import Checkpoint, describe
from scene.command import UserError, printable
from scene.cores import on_all_cores
from scene.findings import table
from scene.predict import Classifier

IMAGE_SIZE = {"FCNN": 24, "CNN": 80}
EXIT_CODES = """\
exit codes:
  0    done
  1    something unforeseen went wrong
  2    a mistake in the command, in a folder or in a photo, or a file that cannot be written
  3    training diverged
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by a terminal that was closed
"""


def run(options):
    """Photos in; a model, its metrics and a report out."""
    started = time.monotonic()
    output = prepare_output(options)
    check_device(options.device)
    if options.load_model:
        classifier, test_photos, findings = load_test(options)
    else:
        teacher = open_teacher(options)
        train_photos, test_photos, findings = load_both(options)
        train_and_save(train_photos, teacher, options, output)
        classifier = Classifier.open(output.model)      # from the file: what is tested is what will be deployed

    report = metrics.evaluate(test_photos.labels, classifier.probabilities(test_photos.pixels, on_all_cores), classifier.classes)
    report = {"mode": options.mode, **report, "seconds": round(time.monotonic() - started, 2),
              "findings": [finding._asdict() for finding in findings]}
    modelfile.write(output.metrics, json.dumps(report, indent=1).encode())
    print(metrics.describe(report))
    print(f"Model: {printable(options.load_model or output.model)}, metrics: {printable(output.metrics)}, "
          f"total time: {report['seconds']:.1f} s")


class Output(NamedTuple):
    """The files of a run."""

    model: str
    metrics: str
    checkpoint: str
    diverged: str           # the last good weights of a training that diverged, as a model


def prepare_output(options):
    """The paths to write, in a folder that can be written to: better known before training than after."""
    os.makedirs(options.output, exist_ok=True)
    names = (name.format(options.mode) for name in ("model_{}", "metrics_{}.json", "checkpoint_{}", "diverged_{}"))
    output = Output(*(os.path.join(options.output, name) for name in names))
    for path in output:
        if os.path.isdir(path):
            raise UserError(f"{printable(path)} is a folder, where a file is to be written: choose another --output.")
    if os.path.exists(output.checkpoint) and not options.resume and not options.load_model:
        raise UserError(f"{printable(output.checkpoint)} is what an interrupted training left: add --resume to go on with it, or delete it "
                        "to begin anew.")
    if options.resume and not os.path.exists(output.checkpoint):
        print(f"Note: there is no {printable(output.checkpoint)} to go on from, so training begins anew.")
    for path in output:
        modelfile.sweep(path)
    modelfile.write(f"{output.model}.try", b"")
    os.unlink(f"{output.model}.try")
    return output


def check_device(device):
    """Refuses a device that is not there."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device here; leave the option away to train on the CPU.")


def open_teacher(options):
    """The network to start from, None if there is none. It sets the architecture, and the image size unless that is given."""
    if not options.start_from:
        options.image_size = options.image_size or IMAGE_SIZE[options.mode]
        return None
    teacher = open_model(options.start_from, options.mode).network
    options.image_size = options.image_size or teacher.image_size
    return teacher


def open_model(path, mode):
    """A model that is trained already, as a Classifier; it has to be of this mode."""
    classifier = Classifier.open(path)
    if classifier.card["mode"] != mode:
        raise UserError(f"{printable(path)} is a model of mode {classifier.card['mode']}, not {mode}: name the mode it has.")
    return classifier


def load_both(options):
    """The photos of TRAIN and TEST and what was found in them, after saying it. Raises DataError with all that is wrong."""
    listings = [folder.scan(path) for path in (options.train, options.test)]
    say_listings(listings)
    (train_photos, test_photos), findings = folder.load(
        listings, listings[0].classes, options.image_size, folder.check(*listings), options.skip_bad)
    say_findings(findings)
    return train_photos, test_photos, findings


def load_test(options):
    """A model that is trained already, as a Classifier, the photos of TEST for it and what was found in them, as `load_both`."""
    classifier = open_model(options.load_model, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: {', '.join(classes)}")
    listing = folder.scan(options.test)
    say_listings([listing])
    (photos,), findings = folder.load(
        [listing], classes, classifier.network.image_size, folder.check_test(classes, listing), options.skip_bad)
    say_findings(findings)
    return classifier, photos, findings


def say_listings(listings):
    """Prints what is in the folders, and what was passed over."""
    for listing in listings:
        counts = ", ".join(f"{printable(name)} {len(photos)}" for name, photos in listing.photos.items()) or "none"
        print(f"{printable(listing.folder)}: {len(listing.paths)} photos of {len(listing.classes)} classes: {counts}")
        if listing.passed_over:
            passed_over = ", ".join(f"{count} {printable(kind)}" for kind, count in sorted(listing.passed_over.items()))
            print(f"  passed over: {passed_over}")
    sys.stdout.flush()


def say_findings(findings):
    """Prints the table of findings; without any, nothing."""
    if findings:
        print(table(findings), flush=True)


def train_and_save(photos, teacher, options, output):
    """Trains a network, new or from what the teacher has learned, and writes its model file."""
    import torch  # takes a second: after the first lines are on the screen

    from scene.models import MODES
    from scene.train import Diverged, train

    architecture = (teacher.architecture if teacher else {}) | {"image_size": options.image_size}
    network = MODES[options.mode](len(photos.classes), **architecture)
    card = {"mode": network.mode, "classes": photos.classes, "architecture": network.architecture, "fit": modelfile.FIT, "mirror": True}
    pixels, labels = (torch.from_numpy(array).to(options.device) for array in (photos.pixels, photos.labels))
    settings = make_settings(options, len(labels))
    print(f"Settings: mode {options.mode}, image size {options.image_size}, "
          + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(settings).items()), flush=True)
    checkpoint = Checkpoint(output.checkpoint, describe(network, photos, settings, teacher))
    try:
        train(network, pixels, labels, settings, teacher, checkpoint)
    except Diverged as error:
        if not checkpoint.restore(network):         # somebody has deleted it
            raise
        modelfile.save(output.diverged, network, card)
        checkpoint.remove()
        raise Diverged(f"{error} The last good weights are in {printable(output.diverged)}, a model like any other.") from error
    modelfile.save(output.model, network, card)
    checkpoint.remove()


def make_settings(options, photos):
    """The settings of a run: the options, and for those not given the defaults for this mode and this many photos."""
    from scene.train import Settings, defaults

    names = Settings.__dataclass_fields__
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    return Settings(**defaults(options.mode, photos, trained=bool(options.start_from)) | given)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.main", description="Train a network that sorts photos into scenes, test it and save it.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", help="folder of photos to train on: one subfolder for each class")
    parser.add_argument("test", metavar="TEST", help="folder of photos to test on: the same subfolders, other photos")
    parser.add_argument("mode", metavar="MODE", type=str.upper, choices=["FCNN", "CNN"],
                        help="FCNN (fully connected: faster) or CNN (convolutional: more accurate), in any case")
    parser.add_argument("--epochs", type=number(int, 1), help="how often to see each photo (default: FCNN 80; CNN 36, more for few)")
    parser.add_argument("--batch-size", type=number(int, 2), help="photos for each step (default: FCNN 256, CNN 128)")
    parser.add_argument("--learning-rate", type=number(float, 1e-9),
                        help="at its highest (default: FCNN 0.1, CNN 0.08, more for few; a tenth of that with --start-from)")
    parser.add_argument("--image-size", type=number(int, 8, 512), help="pixels a side that photos are made (default: FCNN 24, CNN 80)")
    parser.add_argument("--loss", choices=["cross-entropy", "mse"], help="what to make small (default: cross-entropy)")
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    parser.add_argument("--output", metavar="FOLDER", default=".", help="where to write model and metrics (default: here)")
    parser.add_argument("--resume", action="store_true", default=None, help="go on with the interrupted training in --output, if any")
    parser.add_argument("--start-from", metavar="PATH", help="train on from this model: its weights, but for the last layer's")
    parser.add_argument("--load-model", metavar="PATH", help="test this model; nothing is trained, TRAIN is not read")
    parser.add_argument("--skip-bad", action="store_true", help="leave out photos that cannot be used, and say which")
    options = parser.parse_args(arguments)
    training = ("epochs", "batch_size", "learning_rate", "image_size", "loss", "seed", "start_from", "resume")
    given = [name for name in training if getattr(options, name) is not None]
    if options.load_model and given:
        print("Note: nothing is trained, so " + ", ".join(f"--{name.replace('_', '-')}" for name in given) + " will have no effect.")
    return options


def number(kind, least, most=math.inf):
    """An argparse type: a number of this kind from least to most."""
    def parse(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}" if most < math.inf else f"{text} is less than {least}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


if __name__ == "__main__":
    sys.exit(command.run(run, parse(None)))
