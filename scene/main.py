"""Train a network on folders of photos, test it, save it.

    python -m scene.main PHOTOS MODE
    python -m scene.main TRAIN TEST MODE

Each folder holds a folder of photos for each class. PHOTOS is divided into TRAIN and TEST. Start reading at
`run`. Its steps follow. options.py has the options, photos/sets.py reads the photos, and learn/run.py trains.

Next: options.py
"""

import json
import os
import platform
import shlex
import sys
import time
from contextlib import nullcontext
from importlib.metadata import version

from scene import errors, files, processes
from scene.answer import calibration, metrics, modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.errors import UserError, listed, printable
from scene.learn.distill import open_models, soften
from scene.learn.output import Output
from scene.learn.run import keep_out, resumable, train_and_save
from scene.learn.teacher import OWN, choose
from scene.options import TEST_SHARE, parse
from scene.photos import folder, sets
from scene.photos.cache import make_cache
from scene.show import report as page
from scene.show.answers import shown
from scene.show.sections import leaks
from scene.version import VERSION

FEW_PHOTOS = 100            # for a class
TORCHRUN = "TORCHELASTIC_RUN_ID"        # in the environment of the processes that it starts


def run(options):
    """Trains a network or only tests a model, and writes and prints the metrics."""
    started = time.monotonic()
    errors.outlast_reader()
    check_device(options.device)
    output = Output(options.output, options.mode)
    if options.load_model:
        test_model(options, output, started)
    elif TORCHRUN in os.environ:
        train_together(options, output, started)
    else:
        with output.claimed(options.resume):
            train_and_test(options, output, started)


def train_together(options, output, started):
    """As `train_and_test`, in one of the processes that torchrun started on one machine or several."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")       # it warns of what we explain
    from scene.learn.cluster import Cluster  # here, not above: it imports torch

    with Cluster() as options.cluster:
        if options.cluster.rank == 0:
            with output.claimed(options.resume):
                train_and_test(options, output, started)
        else:
            choose(options, folder.scan(options.train).average)
            photos, *_ = load_photos(options)
            photos = photos if options.held_out else keep_out(photos, options)[0]
            options.cluster.follow(soften(photos, open_models(options), options))


def test_model(options, output, started):
    """Tests the model of --load-model. Of the files in --output it writes only the evaluation."""
    output.prepare_evaluation()
    classifier = Classifier.open(options.load_model)
    modelfile.check_mode(options.load_model, classifier.mode, options.mode)
    classes = classifier.classes
    print(f"Model {printable(options.load_model)}: {options.mode}, {len(classes)} classes: {listed(classes)}")
    test_photos, findings = sets.load_test(
        options.test, classes, classifier.image_size, options.skip_bad, make_cache(options))
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
    models = open_models(options)
    train_photos, test_photos, findings, division = load_photos(options)
    if division:
        files.write(output.split, division)
        print(f"The list is in {printable(output.split)}. The same photos again: --split "
              f"{shown(output.split)}", flush=True)
    with resumable(output, "continues from the last checkpoint"):
        train_photos, held = keep_out(train_photos, options)
        train_photos = soften(train_photos, models, options)
        if options.cluster:
            options.cluster.compare(train_photos)
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


def load_photos(options):
    """The Photos to train on, those to test on, or None if the folds do that, the findings, and the list.

    The list says how Scene divided one folder, as bytes for a file, or is None.
    """
    with options.cluster.in_turn() if options.cluster else nullcontext():
        how = {"size": options.image_size, "skip_bad": options.skip_bad, "cache": make_cache(options)}
        if options.test:
            return *sets.load_both(options.train, options.test, **how), None
        if options.folds and not (options.split or options.test_share):
            photos, findings = sets.load_one(options.train, **how)
            return photos, None, findings, None
        return sets.load_split(options.train, share=options.test_share or TEST_SHARE, seed=options.seed or 0,
                               file=options.split, **how)


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
    if said := leaks(report):
        print(f"\nThis accuracy is too high: {', and '.join(said)}. Keep each photo in only one of the two "
              "folders.")
    words = "time since it was resumed" if resumed else "total time"
    also = f", report: {printable(page_path)}" if options.report else ""
    print(f"Model: {printable(model)}, metrics: {printable(path)}{also}, {words}: "
          f"{time.monotonic() - started:.1f} s")


def say_next(photos, teacher, options, output):
    """Prints what would help most, where photos are few, and the next command."""
    average = len(photos.labels) / len(photos.classes)
    if average < FEW_PHOTOS:
        start = not teacher and options.mode in PRETRAINED
        also = f", and then --start-from {OWN}" if start else ""
        print(f"Each class has {average:.0f} training photos on average. More of them would help most{also}.")
    print(f"Next: python -m scene.predict PHOTO --model {shown(output.model)}")


def check_device(device):
    """Raises UserError if the device is not available."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no CUDA device here. Leave the option out to train "
                            "on the CPU.")


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
