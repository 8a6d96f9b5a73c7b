"""Say which scene each photo shows.

    python -m scene.predict PHOTO... [--model PATH]

Next: serve.py
"""

import argparse
import json
import sys
from itertools import islice

from scene import errors, processes  # noqa: F401  before NumPy: processes sets the number of BLAS threads
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.modelfile import named
from scene.errors import printable
from scene.models import DEFAULT_MODE
from scene.photos.decode import PhotoError, read

SHOWN = 5           # classes of each photo


def run(options):
    """Prints the scene of each photo, and returns the exit code."""
    classifier = Classifier.open(options.model)
    failed = 0
    for path in options.photos:
        try:
            with named(options.model):
                answer = classifier.answer(read(path))
        except PhotoError as error:
            print(f"{printable(path)}: {error}.", file=sys.stderr)
            if options.json:
                print(json.dumps({"photo": path, "error": str(error)}))
            failed = 2
            continue
        if options.json:
            print(json.dumps({"photo": path, **answer}))
        else:
            print(f"{printable(path)}: {words(answer)}")
            for name, p in islice(answer["probabilities"].items(), SHOWN):
                print(f"  {p:7.2%}  {name}")
    return failed


def words(answer):
    """An answer in a few words: "ocean", or "not sure: coast 41 %, mountain 38 %"."""
    if answer.get("sure", True):
        return answer["scene"]
    likeliest = islice(answer["probabilities"].items(), 2)
    return "not sure: " + ", ".join(f"{name} {100 * p:.0f} %" for name, p in likeliest)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.predict",
        description=f"Say which scene each photo shows, and the {SHOWN} likeliest classes.",
        epilog="exit codes: 0 done, 1 an unexpected failure, 2 a mistake in the command, model or photo")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="a JPEG, PNG or WebP file")
    parser.add_argument("--model", metavar="PATH", default=PRETRAINED[DEFAULT_MODE],
                        help=f"a model file written by scene.main (default: the pretrained {DEFAULT_MODE})")
    parser.add_argument("--json", action="store_true",
                        help="print a line of JSON for each photo, with all classes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
