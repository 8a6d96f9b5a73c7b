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

from scene import command, folder, metrics, modelfile
from scene.command import UserError, printable
from scene.predict import Classifier

EXIT_CODES = """\
exit codes:
  0    done
  1    something unforeseen went wrong
  2    a mistake in the command, in a folder or in a photo; nothing was trained
  3    training diverged
  130  stopped by Ctrl-C
"""


def run(options):
    """Photos in; a model, its metrics and a report out."""
    started = time.monotonic()
    os.makedirs(options.output, exist_ok=True)
    model_path = options.load_model or os.path.join(options.output, f"model_{options.mode}")
    if options.load_model:
        test_photos = load_test(options)
    else:
        train_photos, test_photos = load_both(options)
        train_and_save(train_photos, options, model_path)

    classifier = Classifier.open(model_path)            # from the file: what is tested is what will be deployed
    report = metrics.evaluate(test_photos.labels, classifier.probabilities(test_photos.pixels), classifier.classes)
    report = {"mode": options.mode, **report, "seconds": round(time.monotonic() - started, 2)}
    metrics_path = os.path.join(options.output, f"metrics_{options.mode}.json")
    with open(metrics_path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    print(metrics.describe(report))
    print(f"Model: {printable(model_path)}, metrics: {printable(metrics_path)}, total time: {report['seconds']:.1f} s")


def load_both(options):
    """The photos of TRAIN and TEST, after saying what was found and whether it will do."""
    listings = [folder.scan(path) for path in (options.train, options.test)]
    warnings = folder.check(*listings)
    say_found(listings, warnings)
    return folder.load(listings, listings[0].classes, options.image_size)


def load_test(options):
    """The photos of TEST, for a model that is trained already."""
    classifier = Classifier.open(options.load_model)
    mode, classes = classifier.card["mode"], classifier.classes
    if mode != options.mode:
        raise UserError(f"{printable(options.load_model)} is a model of mode {mode}, not {options.mode}: name the mode it has.")
    print(f"Model {printable(options.load_model)}: {mode}, {len(classes)} classes: {', '.join(classes)}")
    listing = folder.scan(options.test)
    say_found([listing], folder.check_test(classes, listing))
    return folder.load([listing], classes, classifier.network.image_size)[0]


def say_found(listings, warnings):
    for listing in listings:
        counts = ", ".join(f"{name} {len(photos)}" for name, photos in listing.photos.items())
        print(f"{printable(listing.folder)}: {len(listing.paths)} photos of {len(listing.classes)} classes: {counts}")
        if listing.skipped:
            passed_over = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.skipped.items()))
            print(f"  passed over: {passed_over}")
    for warning in warnings:
        print(f"Warning: {warning}")
    sys.stdout.flush()


def train_and_save(photos, options, path):
    """Trains a new network and writes its model file."""
    import torch  # takes a second: after the first lines are on the screen

    from scene.models import MODES
    from scene.train import train

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; leave the option away to train on the CPU.")
    network = MODES[options.mode](len(photos.classes), options.image_size)
    pixels, labels = (torch.from_numpy(array).to(options.device) for array in (photos.pixels, photos.labels))
    train(network, pixels, labels, make_settings(options, len(labels)))
    card = {"mode": options.mode, "classes": photos.classes, "architecture": network.architecture, "fit": modelfile.FIT, "mirror": True}
    modelfile.save(path, network, card)


def make_settings(options, photos):
    """The settings of a run: the options, and for those not given the defaults for this mode and this many photos."""
    from scene.train import Settings, defaults

    names = Settings.__dataclass_fields__
    given = {name: value for name, value in vars(options).items() if name in names and value is not None}
    settings = Settings(**defaults(options.mode, photos) | given)
    print("Settings: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(settings).items()), flush=True)
    return settings


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.main", description="Train a network that sorts photos into scenes, test it and save it.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="TRAIN", help="folder of photos to train on: one subfolder for each class")
    parser.add_argument("test", metavar="TEST", help="folder of photos to test on: the same subfolders, other photos")
    parser.add_argument("mode", metavar="MODE", type=str.upper, choices=["FCNN", "CNN"],
                        help="FCNN (fully connected: faster) or CNN (convolutional: more accurate), in any case")
    parser.add_argument("--epochs", type=number(int, 1), help="how often to see each photo (default: fewer, the more photos)")
    parser.add_argument("--batch-size", type=number(int, 2), help="photos for each step (default: 64)")
    parser.add_argument("--learning-rate", type=number(float, 1e-9), help="at its highest (default: what suits the mode)")
    parser.add_argument("--image-size", type=number(int, 8, 512), help="photos are resized to so many pixels a side (FCNN 32, CNN 64)")
    parser.add_argument("--loss", choices=["cross-entropy", "mse"], help="(default: cross-entropy)")
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    parser.add_argument("--output", metavar="FOLDER", default=".", help="where to write model and metrics (default: here)")
    parser.add_argument("--load-model", metavar="PATH", help="test this model; nothing is trained, TRAIN is not read")
    options = parser.parse_args(arguments)
    options.image_size = options.image_size or {"FCNN": 32, "CNN": 64}[options.mode]
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
