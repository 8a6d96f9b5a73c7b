"""The options of `python -m scene.main`.

Next: predict.py
"""

import argparse
import math
import sys

from scene.answer.calibration import PROMISE
from scene.learn import recipe
from scene.learn.teacher import OWN
from scene.models import MODES
from scene.photos import sets
from scene.photos.cache import LIMIT

TEST_SHARE = 0.2            # of the photos of a single folder
USAGE = """python -m scene.main [option ...] PHOTOS MODE
       python -m scene.main [option ...] TRAIN TEST MODE"""
EXIT_CODES = """\
exit codes:
  0    done
  1    an unexpected failure
  2    a mistake in the command, in a folder or in a photo, or a file that cannot be written
  3    training diverged
  130  stopped by Ctrl-C; 143 by SIGTERM, 129 by a closed terminal
"""
OF_TRAINING = ("epochs", "minutes", "batch_size", "learning_rate", "image_size", "loss", "error", "seed",
               "widths", "distill", "terms", "held_out", "test_share", "split", "folds", "start_from",
               "from_scratch", "head_only", "resume")


def parse(arguments):
    """The options of a command line, or of sys.argv if arguments is None. Exits where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m scene.main", usage=USAGE,
        description="Train a network that sorts photos into scenes, test it and save it.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos(parser.add_argument)
    add_training(parser.add_argument_group("training").add_argument)
    add_start(parser.add_argument_group("where training starts"))
    add_files(parser.add_argument_group("files").add_argument)
    options = parser.parse_intermixed_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(map(str, arguments))
    options.cluster = None                      # set if torchrun has started several processes
    check_folders(options, parser.error)
    if options.head_only and options.from_scratch:
        parser.error("--head-only needs a trained model to start from: leave --from-scratch out")
    if options.distill and (options.head_only or options.loss):
        parser.error("--distill trains all layers with a loss of its own: leave --head-only and --loss out")
    if options.widths and not MODES[options.mode].widths:
        parser.error(f"{options.mode} has no widths to choose: leave --widths out")
    given = [name for name in OF_TRAINING if getattr(options, name) is not None]
    if options.load_model and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        print(f"Note: nothing is trained, so {names} has no effect.")
    return options


def add_photos(add):
    add("folders", metavar="FOLDER", nargs="+",
        help="PHOTOS: a folder with a subfolder of photos for each class, which Scene divides into photos to "
        "train on and to test on. Or TRAIN and TEST: two such folders with the same subfolders")
    modes = [f"{mode} ({entry.help})" for mode, entry in MODES.items()]
    add("mode", metavar="MODE", type=mode, help=f"{' or '.join(modes)}, in upper or lower case")
    add("--test-share", type=number(float, 0.01, 0.9),
        help=f"of the photos of PHOTOS, to test on (default: {TEST_SHARE})")
    add("--split", metavar="FILE", help="divide PHOTOS as this file says, a split_MODE.csv of an earlier run")
    add("--folds", metavar="K", type=number(int, 2, 100),
        help="cross-validate: train K times, each time tested on another part of the photos, then on all. "
        "PHOTOS are not divided otherwise. --resume repeats the part that was interrupted")
    add("--held-out", metavar="FOLDER",
        help="fit the calibration on these photos, none of which may be in TRAIN (default: a twentieth of "
        "TRAIN, on which nothing is trained then)")
    add("--skip-bad", action="store_true", help="leave out photos that cannot be used, and list them")
    add("--load-model", metavar="PATH", help="test this model without training: on TEST, or on all of PHOTOS")


def add_training(add):
    add("--epochs", type=number(int, 1),
        help=f"how many times to show each photo (default: {default('epochs')}; from a trained model "
        f"{recipe.FINE_TUNING_EPOCHS}, but see --head-only)")
    add("--minutes", type=number(float, 0.01),
        help="train for about this long, instead of --epochs, which it then says")
    add("--batch-size", type=number(int, 2), help=f"photos in each step (default: {default('batch_size')})")
    add("--learning-rate", type=number(float, 1e-9),
        help=f"the highest rate (default: {default('learning_rate')}, or less from a trained model)")
    add("--image-size", type=number(int, sets.LEAST_SIZE, 512), metavar="N",
        help=f"photos are resized to NxN pixels (default: {default('image_size')}, or the size of the model "
        "that training starts from)")
    add("--widths", type=widths, metavar="N,N,…",
        help="channels of a CNN's stages, or units of an FCNN's hidden layers (default: "
        f"{default_widths()}). A wider network learns more from many photos, and takes longer")
    add("--distill", metavar="PATH", action="append",
        help="also learn from this trained model's answers to the training photos (soft labels). It must "
        "know the same classes, and should not know the photos of TEST; its mode and size may differ. Repeat "
        "the option for several models")
    add("--loss", choices=["cross-entropy", "mse"], help="the loss to minimise (default: cross-entropy)")
    add("--error", type=number(float, 0.001, 0.999), metavar="SHARE",
        help=f"the share of wrong answers to promise among the sure ones (default: {PROMISE})")
    add("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    add("--precision", choices=["auto", *recipe.PRECISIONS], default="auto",
        help="of large products in training (default: auto, the faster one on this machine)")


def add_start(group):
    either = group.add_mutually_exclusive_group().add_argument
    either("--start-from", metavar="PATH",
           help=f"start from this model, or from Scene's own: {OWN} (default: from Scene's own for a CNN "
                f"with at most {recipe.START_PHOTOS} photos per class, else from nothing)")
    either("--from-scratch", action="store_true", default=None, help="start from nothing")
    group.add_argument("--head-only", action="store_true", default=None,
                       help="train only the last layer, in seconds, and keep the others of the model to "
                       "start from (default for a CNN with fewer than "
                       f"{recipe.FINE_TUNING_PHOTOS} training photos per class, unless --epochs, --minutes, "
                       "--learning-rate, --loss or --distill is given)")


def add_files(add):
    add("--terms", metavar="TEXT", help="the terms of use of the model, which go into its file")
    add("--output", metavar="FOLDER", default=".",
        help="where to write model, metrics and report (default: the current folder)")
    add("--resume", action="store_true", default=None,
        help="continue an interrupted run in --output, if there is one")
    add("--cache", metavar="FOLDER",
        help="where to keep decoded photos for the next run (default: the user's folder for caches)")
    add("--no-cache", action="store_true", help="decode all photos, and keep them in memory only")
    add("--cache-size", metavar="GB", type=number(float, 0), default=LIMIT,
        help=f"how large the cache may get, before its oldest entries are dropped (default: {LIMIT})")
    add("--check-contents", action="store_true",
        help="read every file to tell whether it has changed, instead of trusting its size and times")
    add("--no-report", dest="report", action="store_false", help="do not write report_<MODE>.html")


def check_folders(options, refuse):
    """Names the folders of the command: options.train, and options.test, which may be None."""
    folders = options.folders
    if len(folders) > 2:
        refuse(f"too many folders ({len(folders)}): name PHOTOS, or TRAIN and TEST, and then the MODE")
    options.train = folders[0]
    options.test = folders[1] if len(folders) == 2 else options.train if options.load_model else None
    if len(folders) == 2 and not options.load_model and (options.split or options.test_share):
        refuse("--split and --test-share divide a single folder: leave TEST out")
    if options.split and options.test_share:
        refuse("--split says which photos to test on: leave --test-share out")
    if options.held_out and options.folds:
        refuse("--folds already fits the calibration: leave --held-out out")
    if options.distill and options.folds:
        refuse("--folds would test on photos that the models of --distill may have been trained on: leave "
               "one of the two out")
    if options.cache and options.no_cache:
        refuse("--cache and --no-cache exclude each other: leave one of them out")
    if options.epochs and options.minutes:
        refuse("--minutes finds the number of epochs: leave one of the two out")


def mode(text):
    """An argparse type: one of MODES, in upper or lower case."""
    if text.upper() not in MODES:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(MODES)})")
    return text.upper()


def widths(text):
    """An argparse type: the widths of a network, such as "32,48,128"."""
    return [number(int, 1, 100_000)(word) for word in text.split(",")]


widths.__name__ = "list of widths"


def default_widths():
    """The widths of every mode that has them, for --help: "FCNN 384,256, CNN 32,48,128"."""
    return ", ".join(f"{mode} {','.join(map(str, widths))}"
                     for mode, entry in MODES.items() for widths in entry.widths.values())


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
