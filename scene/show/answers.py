"""Answers about photos as people and programs read them: on the terminal, as JSON Lines, and as a CSV file.

Next: layers.py
"""

import json
import os
import shlex
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from itertools import islice

from scene import files
from scene.errors import UserError, printable
from scene.photos.hints import count
from scene.photos.journal import line, quote
from scene.photos.sort import UNSURE

SHOWN = 5           # classes of each photo
LISTED = 50        # photos with the same problem
COLUMNS = "photo", "scene", "probability", "sure", "reason", "error"


def words(answer):
    """An answer in a few words: "ocean", or "not sure: coast 41 %, mountain 38 %"."""
    if answer.get("sure", True):
        return answer["scene"]
    likeliest = islice(answer["probabilities"].items(), 2)
    return "not sure: " + ", ".join(f"{name} {100 * p:.0f} %" for name, p in likeliest)


def folder_for(answer):
    """The folder that a photo with this answer belongs in."""
    return answer["scene"] if answer.get("sure", True) else UNSURE


def print_answer(answer, top):
    """Prints an answer and the probabilities of the likeliest classes."""
    print(f"{printable(answer['photo'])}: {words(answer)}")
    for name, p in islice(answer["probabilities"].items(), top):
        print(f"  {p:7.2%}  {name}")


def print_json(answer, top=None):
    """Prints an answer, or the error about a photo, as a line of JSON, with the likeliest classes or all."""
    if top and "error" not in answer:
        answer = answer | {"probabilities": dict(islice(answer["probabilities"].items(), top))}
    print(json.dumps(answer))


def shown(path):
    """A path as a shell takes it, relative to the current folder if it lies in it."""
    here = os.path.join(os.getcwd(), "")
    full = os.path.abspath(path)
    return shlex.quote(printable(full[len(here):] if full.startswith(here) else path))


# CSV


@contextmanager
def csv_file(path, top):
    """A function that adds an answer to a new CSV file, which replaces an older one when the block ends.

    The names of photos and classes are quoted as in an undo file. Beside COLUMNS there are scene_2,
    probability_2 and so on, up to `top`. Raises UserError or OSError.
    """
    real = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(real)):
        raise UserError(f"{printable(path)} cannot be written, since its folder does not exist.")
    if os.path.lexists(real) and not is_table(real):
        raise UserError(f"{printable(path)} is there already, and no table of this command: choose another "
                        "name for --csv.")
    others = [f"{name}_{i}" for i in range(2, top + 1) for name in ("scene", "probability")]
    with files.temporary(real) as file:
        file.write(line([*COLUMNS, *others]))
        yield lambda answer: file.write(line(row(answer, top)))
        file.flush()
        files.sync(file)
        os.replace(file.name, real)


def is_table(path):
    """Whether a file is empty or a table that `csv_file` wrote, and no photo that a slip would overwrite."""
    start = line(COLUMNS).rstrip()
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(start)) in (b"", start)


def row(answer, top):
    """An answer as a row of the CSV file."""
    if "error" in answer:
        return [quote(answer["photo"]), "", "", "", "", answer["error"], *[""] * (2 * top - 2)]
    likeliest = islice(answer["probabilities"].items(), top)
    cells = [cell for name, p in likeliest for cell in (quote(name), f"{p:.6f}")]
    cells += [""] * (2 * top - len(cells))
    sure = {True: "true", False: "false"}.get(answer.get("sure"), "")
    return [quote(answer["photo"]), *cells[:2], sure, answer.get("reason") or "", "", *cells[2:]]


# The end


class Summary:
    """Counts what became of each photo, and says it at the end.

    say   prints a line, to stderr if stdout is for JSON
    """

    def __init__(self, json=False):
        self.say = partial(print, file=sys.stderr if json else sys.stdout)
        self.started = time.perf_counter()
        self.photos = 0
        self.counts = Counter()             # what became of photos -> how many
        self.listed = {}                    # what to say about photos -> their paths
        self.failed = False                 # whether something is wrong with a photo or folder

    def add(self, what):
        """Counts a photo."""
        self.photos += 1
        self.counts[what] += 1

    def list(self, path, what, detail=""):
        """Notes something to say about a photo.   detail: what differs between photos, after `what`."""
        self.listed.setdefault(what, []).append((path, detail))

    def problem(self, path, what):
        """Notes what is wrong with a photo or folder."""
        self.list(path, what)
        self.failed = True

    def print_list(self):
        """Lists the photos that there is something to say about, on stderr."""
        for what, photos in self.listed.items():
            for path, detail in photos[:LISTED]:
                print(f"{printable(path)}: {what}{detail}.", file=sys.stderr)
            if len(photos) > LISTED:
                print(f"and {len(photos) - LISTED} more like this.", file=sys.stderr)
        sys.stderr.flush()

    def print_counts(self):
        """Prints how many photos there were, how long they took, and what became of them."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        rate = f"{seconds:.1f} s, {self.photos / seconds:.1f} per second"
        self.say(f"{count(self.photos, 'photo')} in {rate}:")
        for what, number in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            self.say(f"  {number:6}  {what}")
