"""Say which scene each photo shows, and sort photos into folders by it.

    python -m scene.predict PHOTO|FOLDER|PATTERN... [--model PATH] [--sort INTO]
    python -m scene.predict --undo FILE

Next: show/answers.py
"""

import argparse
import hashlib
import os
import shlex
import sys
from contextlib import contextmanager, nullcontext, suppress

from scene import errors, processes  # noqa: F401  before NumPy: processes sets the number of BLAS threads
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.modelfile import ModelFileError, named
from scene.errors import UserError, explain, printable
from scene.models import DEFAULT_MODE
from scene.photos.decode import PhotoError, read
from scene.photos.gather import Inputs
from scene.photos.hints import in_words
from scene.photos.journal import read as read_journal
from scene.photos.journal import roots_of
from scene.photos.sort import AlreadyThere, LeftInPlace, rehearse, sorting
from scene.photos.undo import BACK, DONE, undo
from scene.show import map_picture
from scene.show.answers import SHOWN, Summary, csv_file, folder_for, print_answer, print_json, shown
from scene.signals import Stopped

TOGETHER = 4        # photos whose answers a process sends at once


def run(options):
    """Answers about photos, or takes a sorting back. Returns the exit code."""
    if options.sort or options.undo:
        errors.outlast_reader()             # the work is worth more than the words about it
    return take_back(options) if options.undo else predict(options)


def predict(options):
    """Prints the scene of each photo, and sorts it if asked to. Returns the exit code."""
    classifier = Classifier.open(options.model)
    inputs = Inputs(options.photos)
    summary = Summary(options.json)
    with open_table(options) as add_row, open_sorter(options, inputs, classifier.classes) as sorter:
        paths = inputs.photos()
        if options.map:
            draw_map(classifier, paths, options)
        if sorter and sorter.continues:
            summary.say(f"Continues the sorting that was cut off ({shown(sorter.journal.path)}).")
        for answer, sha256 in progress(answers(classifier, paths, options), options, len(paths)):
            add_row(answer)
            show(answer, options)
            if "error" in answer:
                summary.add("cannot be read, left in place" if sorter else "cannot be read")
                summary.problem(answer["photo"], answer["error"])
            elif sorter:
                sort_photo(sorter, answer, sha256, summary, options)
            else:
                summary.add(folder_for(answer))
    for path, what in inputs.problems:
        summary.problem(path, what)
    for folder in inputs.empty:             # no mistake if an earlier command has moved its photos
        (summary.list if options.sort else summary.problem)(folder, "no photos in it")
    conclude(summary, inputs, sorter, options)
    return 2 if summary.failed else 0


def conclude(summary, inputs, sorter, options):
    """Prints what was wrong and, unless it was about a single photo, the counts and the next command."""
    summary.print_list()
    if summary.photos < 2 and not options.sort and not options.csv:
        return
    summary.print_counts()
    if options.csv:
        summary.say(f"The table is {shown(options.csv)}.")
    if inputs.passed_over:
        summary.say(f"Passed over in the folders: {in_words(inputs.passed_over)}.")
    summary.say(next_step(options, sorter))


def answers(classifier, paths, options):
    """Yields (answer, SHA-256 of the photo's file) for each path, in order, computed on all cores.

    An answer is that of `Classifier.answer` with its "photo", or {"photo": path, "error"} about a bad photo.
    """
    def work(path):
        try:
            data = read(path)
            with named(options.model):
                answer = {"photo": path, **classifier.answer(data)}
        except PhotoError as error:
            return {"photo": path, "error": str(error)}, ""
        except ModelFileError as error:             # raised in a worker, it would look like a crash
            return error, ""
        return answer, hashlib.sha256(data).hexdigest() if options.sort else ""

    for answer, sha256 in processes.parallel_map(work, paths, TOGETHER):
        if isinstance(answer, ModelFileError):
            raise answer
        yield answer, sha256


def draw_map(classifier, paths, options):
    """Writes the picture of --map. A photo that cannot be read is reported with the answers."""
    if len(paths) != 1:
        raise UserError(f"--map takes a single photo, not {len(paths)}: name one.")
    with suppress(PhotoError), named(options.model):
        map_picture.write(options.map, classifier, read(paths[0]))


def show(answer, options):
    """Prints an answer, unless the answers go elsewhere. A bad photo is listed at the end instead."""
    if options.json:
        print_json(answer, options.top)
    elif "error" not in answer and not options.csv and not options.sort:
        print_answer(answer, options.top or SHOWN)


def progress(items, options, total=None):
    """Shows a progress bar on the terminal, unless something else is printed there."""
    if total == 1:
        return items
    from tqdm import tqdm  # here, not above: a single photo needs none

    tqdm.monitor_interval = 0       # a thread of its own, which a process that forks had better not have
    silent = (options.csv or options.sort or options.undo) and not options.json and not options.dry_run
    printed = sys.stdout.isatty() and not silent
    return tqdm(items, total=total, unit=" photos", leave=False, disable=printed or None)


def open_table(options):
    """Inside the block, a function that adds an answer to the file of --csv, if there is one."""
    return csv_file(options.csv, options.top or SHOWN) if options.csv else nullcontext(lambda answer: None)


# Sorting


def open_sorter(options, inputs, classes):
    """Inside the block, what sorts photos as the options say, or None."""
    if not options.sort:
        return nullcontext()
    if options.dry_run:
        return nullcontext(rehearse(options.sort, inputs, classes))
    return explained(sorting(options.sort, inputs, classes, options.move))


@contextmanager
def explained(work):
    """Adds to an error or stop signal in the block that the same command continues."""
    with work as sorter:
        try:
            yield sorter
        except Stopped as error:
            raise Stopped(error.number, f"{error} {advice(sorter)}") from error
        except OSError as error:
            raise UserError(f"{explain(error)} {advice(sorter)}") from error
        except UserError as error:
            raise UserError(f"{error} {advice(sorter)}") from error
        except Exception as error:
            error.add_note(advice(sorter))
            raise


def advice(sorter):
    """How to go on with a sorting that was cut off."""
    undoing = f"python -m scene.predict --undo {shown(sorter.journal.path)} takes back what was sorted"
    return f"No photo is lost: the same command continues{f', and {undoing}' if sorter.journal.path else ''}."


def sort_photo(sorter, answer, sha256, summary, options):
    """Sorts a photo, or says where it would go."""
    path = answer["photo"]
    try:
        target = sorter.put(path, sha256, folder_for(answer))
    except AlreadyThere as error:
        summary.add("already there")
        if options.move:
            what = "left in place, since the same photo is there already"
            summary.list(path, what, f" ({shown(str(error))})")
        return
    except LeftInPlace as error:
        summary.add("left in place")
        summary.problem(path, f"left in place: {error}")
        return
    if options.dry_run:
        summary.say(f"{shown(path)} -> {shown(target)}")
    done = ("would be " if options.dry_run else "") + ("moved" if options.move else "copied")
    summary.add(f"{done} to {shown(os.path.dirname(target))}")


def next_step(options, sorter):
    """The last line: the next useful command."""
    if not sorter:
        words = options.photos if len(options.photos) <= 3 else ["PHOTO…"]
        if options.model not in PRETRAINED.values():
            words = [*words, "--model", options.model]
        command = f"python -m scene.predict {shlex.join(map(printable, words))} --sort INTO --dry-run"
        return f"To sort them into folders, as a dry run first: {command}"
    if options.dry_run:
        return "Nothing was changed. The same command without --dry-run does it."
    if sorter.journal.path:
        return f"To take this back: python -m scene.predict --undo {shown(sorter.journal.path)}"
    return "Nothing was changed."


def take_back(options):
    """Undoes what an undo file records. Returns the exit code."""
    summary = Summary()
    try:
        undo_all(options, summary)
    except Stopped as error:
        raise Stopped(error.number, f"{error} No photo is lost: the same command continues.") from error
    summary.print_list()
    summary.print_counts()
    if options.dry_run:
        summary.say("Nothing was changed. The same command without --dry-run does it.")
    else:
        folders = " ".join(map(shown, roots_of(read_journal(options.undo))[:3]))
        into = shown(os.path.dirname(os.path.abspath(options.undo)))
        summary.say(f"To sort them again: python -m scene.predict {folders} --model MODEL --sort {into}")
    return 2 if summary.failed else 0


def undo_all(options, summary):
    """Undoes each record, and counts what became of the photos."""
    for target, source, what in undo(options.undo, options.dry_run, lambda photos: progress(photos, options)):
        if what not in DONE:
            summary.add("left where they are")
            summary.problem(shown(target), what)
            continue
        if options.dry_run and what != BACK:
            summary.say(f"{shown(target)} -> {shown(source)}")
        summary.add(what)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.predict",
        description=f"Say which scene each photo shows, with the {SHOWN} likeliest classes, or sort photos "
        "into folders by it.",
        epilog="exit codes: 0 done, 1 an unexpected failure, 2 a mistake in the command, model or photo")
    add = parser.add_argument
    add("photos", metavar="PHOTO", nargs="*",
        help="a JPEG, PNG or WebP file, a folder, which is searched for photos, or a pattern such as '*.jpg'")
    add("--model", metavar="PATH", default=PRETRAINED[DEFAULT_MODE],
        help=f"a model file written by scene.main (default: the pretrained {DEFAULT_MODE})")
    add("--top", metavar="N", type=int,
        help=f"how many of the likeliest classes to give (default: {SHOWN}, and all with --json)")
    add("--json", action="store_true", help="print a line of JSON for each photo")
    add("--csv", metavar="FILE", help="write a table with a line for each photo, and print only a summary")
    add("--map", metavar="OUT.png",
        help="draw which places of the photo speak for its class (orange) and against it")
    add("--sort", metavar="INTO", help="copy each photo into INTO/<class>, and unsure ones into INTO/unsure")
    add("--move", action="store_true", help="with --sort: move the photos instead")
    add("--dry-run", action="store_true", help="with --sort or --undo: only say what would be done")
    add("--undo", metavar="FILE", help="bring back what --sort did, by the undo file that it wrote in INTO")
    options = parser.parse_args(arguments)
    if bool(options.photos) == bool(options.undo):
        parser.error("give photos or folders, or --undo with a file")
    if options.undo and (options.sort or options.json or options.csv or options.top or options.map):
        parser.error("--undo goes with no option but --dry-run")
    if options.move and not options.sort or options.dry_run and not (options.sort or options.undo):
        parser.error("--move and --dry-run go with --sort INTO")
    if options.top is not None and options.top < 1:
        parser.error("--top is at least 1")
    return options


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
