"""Train a network on folders of photos, test it, save it.

    python -m scene.main PHOTOS MODE
    python -m scene.main TRAIN TEST MODE

Each folder holds a folder of photos for each class. PHOTOS is divided into TRAIN and TEST. Start reading at
`run`. Its steps follow, and then the options of the command. photos/sets.py reads the photos, and
learn/run.py trains.

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
from scene.answer import calibration, metrics, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.errors import UserError, listed, printable
from scene.learn import recipe
from scene.learn.output import Output
from scene.learn.run import keep_out, resumable, train_and_save
from scene.learn.teacher import OWN, choose
from scene.models import MODES
from scene.photos import folder, sets
from scene.show import report as page
from scene.version import VERSION

FEW_PHOTOS = 100            # for a class
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
    modelfile.check_mode(options.load_model, classifier.mode, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: {listed(classes)}")
    test_photos, findings = sets.load_test(options.test, classes, classifier.image_size, options.skip_bad)
    report, features = test(classifier, options.load_model, test_photos, findings)
    report |= {"settings": {"mode": options.mode, "image_size": classifier.image_size}}
    write_report(output.evaluation, report, options, started)
    if options.report:
        write_page(output.report, report, classifier, features, test_photos, None, None)
    say_result(report, options, options.load_model, output.evaluation, output.report, started)


def train_and_test(options, output, started):
    """Trains, saves and tests a network. The checkpoint stays until all other files are written."""
    resumed = options.resume and os.path.exists(output.checkpoint)
    teacher = choose(options, folder.scan(options.train).average)
    train_photos, test_photos, findings = load_photos(options, output)
    with resumable(output, "continues from the last checkpoint"):
        train_photos, held = keep_out(train_photos, options)
        classifier, about, out_of_fold = train_and_save(
            train_photos, held, held or test_photos, teacher, options, output)
    with resumable(output, "goes straight to the test"):
        report, features = test(classifier, output.model, test_photos, findings, about)
        report = about | report
        write_report(output.metrics, report, options, started)
        if options.report:
            write_page(output.report, report, classifier, features, test_photos, train_photos, out_of_fold)
        files.remove(output.folds)
        files.remove(output.checkpoint)
    say_result(report, options, output.model, output.metrics, output.report, started, resumed)
    say_next(train_photos, teacher, options, output)


def load_photos(options, output):
    """The Photos to train on, those to test on, or None if the folds do that, and the findings."""
    if options.test:
        return sets.load_both(options.train, options.test, options.image_size, options.skip_bad)
    if options.folds and not (options.split or options.test_share):
        photos, findings = sets.load_one(options.train, options.image_size, options.skip_bad)
        return photos, None, findings
    division = options.test_share or TEST_SHARE, options.seed or 0, options.split
    *both, findings, written = sets.load_split(options.train, options.image_size, options.skip_bad, *division)
    files.write(output.split, written)
    print(f"The list is in {printable(output.split)}. The same photos again: --split "
          f"{shown_path(output.split)}", flush=True)
    return *both, findings


def test(classifier, path, photos, findings, about=None):
    """The metrics of a model, by its path, on the photos of TEST, and the features of these photos.

    Without photos, the metrics are those of the cross-validation, and there are no features.
    """
    features = None
    if photos is None:
        report = about["cross_validation"]
    else:
        with modelfile.named(path):
            features = classifier.features(photos.pixels, processes.parallel_map)
            probabilities, reasons = classifier.judge(photos.pixels, processes.parallel_map, features)
        report = metrics.evaluate(photos.labels, probabilities, classifier.classes)
        if reasons:
            report["calibration"] = calibration.evaluate(photos.labels, probabilities, reasons,
                                                         classifier.calibration)
    report = {"mode": classifier.mode, **report}
    report |= {**folder.count_leaks(findings),
               "findings": [finding._asdict() for finding in findings],
               "model": {"path": path, "sha256": classifier.sha256}}
    return report, features


def write_page(path, report, classifier, features, photos, train_photos, out_of_fold):
    """Writes the page to look at: on the photos of TEST, or else on the answers of the cross-validation."""
    if "cross_validation" in report and out_of_fold is None and os.path.exists(path):
        return                              # of a run that was finished before: its page shows more
    if photos is not None:
        probabilities = classifier.probabilities_of(features)
        page.write(path, report, classifier, features, photos, probabilities, train_photos, out_of_fold)
    elif out_of_fold is not None:
        features = classifier.features(train_photos.pixels, processes.parallel_map)
        page.write(path, report, classifier, features, train_photos, out_of_fold)


def write_report(path, report, options, started):
    """Adds the circumstances to a report and writes it: a line of JSON for each entry."""
    folders = {"test": options.test, "train": None if options.load_model else options.train}
    folders = {name: os.path.abspath(path) for name, path in folders.items() if path}
    packages = {name: version(name) for name in ("torch", "numpy", "pillow")}
    versions = {"scene": VERSION, "python": platform.python_version(), **packages}
    report |= {"command": command(options, report.get("settings", {})), "folders": folders,
               "versions": versions, "seconds": round(time.monotonic() - started, 2)}
    entries = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in report.items()]
    files.write(path, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def command(options, settings):
    """The command that repeats the run, with what it chose by itself: seed and precision."""
    words = [word for word in options.arguments if word != "--resume"]
    for name in ("seed", "precision"):
        if name in settings and f"--{name}" not in words:
            words += [f"--{name}", str(settings[name])]
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join(['python', '-m', 'scene.main', *words])}"


def say_result(report, options, model, path, page_path, started, resumed=False):
    """Prints the metrics, what spoils them, the files, and the time: everything is written."""
    if "cross_validation" in report and "folds" not in report:
        print(metrics.describe_folds(report["cross_validation"]))
    print(metrics.describe(report))
    if "calibration" in report:
        print(f"\n{calibration.describe(report['calibration'])}")
    if leaks := describe_leaks(report):
        print(f"\nThis accuracy is too high: {leaks}. Keep each photo in only one of the two.")
    words = "time since it was resumed" if resumed else "total time"
    shown = f", report: {printable(page_path)}" if options.report else ""
    print(f"Model: {printable(model)}, metrics: {printable(path)}{shown}, {words}: "
          f"{time.monotonic() - started:.1f} s")


def describe_leaks(report):
    """How many test photos are training photos, too, or nearly, or "" if none are."""
    number, near, photos = report["leaks"], report["near_leaks"], report["photos"]
    copies = f"{number} of the {photos} test photos are also training photos"
    near_copies = f"{near} of {photos} test photos are near-copies of training photos"
    return ", and ".join([copies] * (number > 0) + [near_copies] * (near > 0))


def say_next(photos, teacher, options, output):
    """Prints what would help most, where photos are few, and the next command."""
    average = len(photos.labels) / len(photos.classes)
    if average < FEW_PHOTOS:
        start = not teacher and options.mode in PRETRAINED
        also = f", and then --start-from {OWN}" if start else ""
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
        prog="python -m scene.main", usage=USAGE,
        description="Train a network that sorts photos into scenes, test it and save it.",
        epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", metavar="FOLDER", nargs="+",
        help="PHOTOS: a folder with a subfolder of photos for each class, which Scene divides into photos to "
        "train on and to test on. Or TRAIN and TEST: two such folders with the same subfolders")
    modes = [f"{mode} ({entry.help})" for mode, entry in MODES.items()]
    add("mode", metavar="MODE", type=mode,
        help=f"{' or '.join(modes)}, in upper or lower case")
    add("--epochs", type=number(int, 1),
        help=f"how many times to show each photo (default: {default('epochs')})")
    add("--minutes", type=number(float, 0.01),
        help="train for about this long, instead of --epochs, which it then says")
    add("--batch-size", type=number(int, 2), help=f"photos in each step (default: {default('batch_size')})")
    add("--learning-rate", type=number(float, 1e-9),
        help=f"the highest rate (default: {default('learning_rate')}, or less from a trained model)")
    add("--image-size", type=number(int, sets.LEAST_SIZE, 512), metavar="N",
        help=f"photos are resized to NxN pixels (default: {default('image_size')})")
    add("--loss", choices=["cross-entropy", "mse"], help="the loss to minimise (default: cross-entropy)")
    add("--error", type=number(float, 0.001, 0.999), metavar="SHARE",
        help=f"the share of wrong answers to promise among the sure ones (default: {calibration.PROMISE})")
    add("--seed", type=number(int, 0, 2**63 - 1), help="the same seed gives the same model (default: 0)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default: cpu)")
    add("--precision", choices=["auto", *recipe.PRECISIONS], default="auto",
        help="of large products in training (default: auto, the faster one on this machine)")
    add("--output", metavar="FOLDER", default=".",
        help="where to write model and metrics (default: the current folder)")
    add("--resume", action="store_true", default=None,
        help="continue an interrupted run in --output, if there is one")
    start = parser.add_mutually_exclusive_group().add_argument
    start("--start-from", metavar="PATH",
          help=f"start from this model, or from Scene's own: {OWN} (default: from Scene's own for a CNN with "
               f"at most {recipe.START_PHOTOS} photos per class, else from nothing)")
    start("--from-scratch", action="store_true", default=None, help="start from nothing")
    add("--head-only", action="store_true", default=None,
        help="train only the last layer, in seconds, and keep the others of the model to start from")
    add("--load-model", metavar="PATH", help="test this model without training: on TEST, or on all of PHOTOS")
    add("--test-share", type=number(float, 0.01, 0.9),
        help=f"of the photos of PHOTOS, to test on (default: {TEST_SHARE})")
    add("--split", metavar="FILE", help="divide PHOTOS as this file says, a split_MODE.csv of an earlier run")
    add("--folds", metavar="K", type=number(int, 2, 100),
        help="cross-validate: train K times, each time tested on another part of the photos, then on all. "
        "PHOTOS are not divided otherwise. --resume repeats the part that was interrupted")
    add("--no-report", dest="report", action="store_false", help="do not write report_<MODE>.html")
    add("--skip-bad", action="store_true", help="leave out photos that cannot be used, and list them")
    options = parser.parse_intermixed_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(map(str, arguments))
    check_folders(options, parser.error)
    if options.head_only and options.from_scratch:
        parser.error("--head-only needs a trained model to start from: leave --from-scratch out")
    training = ("epochs", "minutes", "batch_size", "learning_rate", "image_size", "loss", "error", "seed",
                "test_share", "split", "folds", "start_from", "from_scratch", "head_only", "resume")
    given = [name for name in training if getattr(options, name) is not None]
    if options.load_model and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        print(f"Note: nothing is trained, so {names} has no effect.")
    return options


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
    if options.epochs and options.minutes:
        refuse("--minutes finds the number of epochs: leave one of the two out")


def mode(text):
    """An argparse type: one of MODES, in upper or lower case."""
    if text.upper() not in MODES:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(MODES)})")
    return text.upper()


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
