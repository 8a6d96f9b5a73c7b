"""How well a model says "not sure": its probabilities, its promises, and what it refuses.

    python -m tests.bench.unsure MODEL TEST [--held HELD] [--others FOLDER...]

TEST and HELD are folders of class folders. With --held, the model's calibration is fitted anew on 500 photos
of HELD, on which it was not trained: at several promises, and for five draws of the 500. Without, its own
is tested. The folders of --others hold photos of none of the classes.
"""

import argparse

import numpy as np
from tqdm import tqdm

from scene import processes
from scene.answer import calibration, metrics, strangeness
from scene.answer.classifier import Classifier
from scene.learn.calibrate import MOST, Measured, measure
from scene.nn.loss import softmax
from scene.photos import folder
from tests import strange

PROMISES = 0.05, 0.1, 0.2, 0.3, 0.4
DRAWS = 5
STRANGE = 500               # pictures of each kind


def load(path, classifier):
    """The photos of a folder of class folders, or of any folders."""
    listing = folder.scan(path)
    known = set(listing.classes) <= set(classifier.classes)
    return folder.load([listing], classifier.classes if known else listing.classes, classifier.image_size,
                       skip_bad=True)[0][0]


def perfect(confidences, random, draws=1000):
    """The 95th percentile of the ECE of a perfectly calibrated classifier with these confidences."""
    n = len(confidences)
    place = np.minimum((confidences * calibration.BINS).astype(int), calibration.BINS - 1)
    expected = np.bincount(place, confidences, calibration.BINS)
    found = [np.abs(np.bincount(place, random.random(n) < confidences, calibration.BINS) - expected).sum() / n
             for _ in range(draws)]
    return np.quantile(found, 0.95)


def area_under_roc(known, others):
    """The chance that one of the others is stranger than a known one."""
    order = np.concatenate([known, others]).argsort(kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    return (ranks[len(known):].sum() - len(others) * (len(others) + 1) / 2) / len(known) / len(others)


def say_promises(found, tested, random):
    """A line of the curve: what is promised, how much is answered, and how much of that is wrong."""
    p = softmax(tested.scores / found["temperature"])
    reasons = calibration.reasons(p, tested.logs if "strange" in found else None, found)
    report = calibration.evaluate(tested.labels, p, reasons, found)
    low, high = report["error_interval"] or (0, 1)
    kept = "kept" if low <= report["promised_error"] <= high else "missed"
    print(f"  {report['promised_error']:7.0%} {report['answered']:9.1%} {report['error'] or 0:7.1%} "
          f"({low:.1%} to {high:.1%}, {kept})  ECE {report['ece_before']:.1%} -> {report['ece']:.1%} "
          f"(perfect: below {perfect(p.max(1).astype(float), random):.1%})")


def draws(measured, random):
    """MOST of the held-out photos, DRAWS times."""
    for _ in range(DRAWS):
        chosen = random.permutation(len(measured.labels))[:MOST]
        yield Measured(*(array[chosen] for array in measured))


def say_strangeness(classifier, fitted, usual, tested, others):
    """How much of what is no known photo is refused where 90 % of the known ones are kept, and the areas."""
    known = strangeness.strangeness(tested.logs, usual)
    limit = np.quantile(known, 0.9)
    sets = {kind: strange.pictures(kind, STRANGE, classifier.image_size) for kind in strange.KINDS}
    sets |= {path: load(path, classifier).pixels for path in others}
    for name, pixels in sets.items():
        features = classifier.features(pixels, processes.parallel_map)
        textures = classifier.textures(pixels, processes.parallel_map)
        found = strangeness.strangeness(strangeness.distances(features, textures, fitted), usual)
        sure = softmax(classifier.scores(features)).max(1)
        known_sure = softmax(tested.scores).max(1)
        area = area_under_roc(known, found)
        print(f"  {name:30} {(found > limit).mean():7.1%} refused   area {area:.3f} (by"
              f" softmax alone {area_under_roc(-known_sure, -sure):.3f})", flush=True)


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model")
    parser.add_argument("test")
    parser.add_argument("--held", metavar="HELD")
    parser.add_argument("--others", nargs="*", default=[], metavar="FOLDER")
    options = parser.parse_args()
    tqdm.monitor_interval = 0
    random = np.random.default_rng(0)
    classifier = Classifier.open(options.model)
    fitted = classifier.calibration
    tested = measure(classifier, fitted, load(options.test, classifier))
    right = int((tested.scores.argmax(1) == tested.labels).sum())
    low, high = metrics.wilson_interval(right, len(tested.labels))
    size = sum(4 * array.size for array in fitted.values())
    print(f"{len(tested.labels)} photos, {len(classifier.classes)} classes, "
          f"accuracy {right / len(tested.labels):.1%} ({low:.1%} to {high:.1%}); calibration of {size} bytes")
    print("promised  answered   wrong")
    if options.held:
        parts = list(draws(measure(classifier, fitted, load(options.held, classifier)), random))
        for error in PROMISES:
            for part in parts:
                say_promises(calibration.fit(*part, error), tested, random)
        usual = calibration.fit(*parts[0], 0.1)["usual"]
    else:
        say_promises(fitted, tested, random)
        usual = fitted["usual"]
    say_strangeness(classifier, fitted, usual, tested, options.others)


if __name__ == "__main__":
    main()
