"""Exercises that mark themselves: python -m tests.lessons [NAME] [--hint 1]

Without a name it lists the lessons. With one, it writes lessons/NAME.py in the current folder, and judges
that file once it is there. It never changes a file that you have written.
"""

import argparse
import difflib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from scene import errors, files
from scene.errors import UserError
from tests.lessons import DONE, NOT_YET, catalogue, skeleton
from tests.lessons.catalogue import LESSONS, NAMES

FOLDER = Path("lessons")
PROGRESS = FOLDER / "progress.json"
COMMAND = "python -m tests.lessons"


def run(name, hint):
    if name is None:
        print(listing(read_progress()))
        return 0
    lesson = catalogue.find(name)
    if lesson is None:
        raise UserError(unknown(name))
    if hint:
        print(f"Hint {hint} of {len(lesson.hints)} for {lesson.name}: {lesson.hints[hint - 1]}")
        return 0
    path = FOLDER / f"{lesson.name}.py"
    if not path.exists():
        write(lesson, path)
        return 0
    return submit(lesson, path)


def unknown(name):
    close = difflib.get_close_matches(name.lower(), NAMES, 1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"There is no lesson {errors.printable(name)}.{guess} The lessons are {', '.join(NAMES)}."


def write(lesson, path):
    """Writes the skeleton where no file is yet, and says what to do."""
    try:
        path.parent.mkdir(exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path.parent} is not a folder here. Run the command in another folder.") from None
    with open(path, "x", encoding="utf-8") as file:         # never over a file that is there
        file.write(skeleton.make(lesson))
    written = skeleton.enumeration(lesson.write)
    print(f"Wrote {path}. Open it, write {written} from the formulas in it, and run the same command again.\n"
          f"If you are stuck: {COMMAND} {lesson.name} --hint 1, then 2 and 3.")


def submit(lesson, path):
    """Has the learner's file judged in a process of its own, and records success."""
    if importlib.util.find_spec("hypothesis") is None:
        raise UserError("The lessons need Hypothesis. Install it as the tests need it: pip install -e "
                        "'.[test]'")
    contents = path.read_bytes()
    environment = os.environ | {"PYTHONPATH": str(skeleton.ROOT), "PYTHONIOENCODING": "utf-8",
                                "HYPOTHESIS_STORAGE_DIRECTORY": str(FOLDER / ".hypothesis")}
    command = [sys.executable, "-P", "-m", "tests.lessons.judge", lesson.name, str(path)]
    judged = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = judged.stderr.decode(errors="replace").strip()
    if judged.returncode not in (DONE, NOT_YET):
        print(crash(path, judged.returncode, said))
    if judged.returncode != DONE:
        return 1
    progress = read_progress() | {lesson.name: hashlib.sha256(contents).hexdigest()}
    files.write(PROGRESS, json.dumps(progress, indent=1).encode())
    left = [other.name for other in LESSONS if other.name not in progress]
    following = f"; next: {COMMAND} {left[0]}" if left else ""
    print(f"Compare it with {lesson.source}. {len(LESSONS) - len(left)} of {len(LESSONS)} lessons done"
          f"{following}")
    return 0


def crash(path, code, said):
    """What to say when the learner's code has ended Python. said: stderr, with faulthandler's lines."""
    line = re.search(rf'File "{re.escape(str(path))}", line (\d+) in (\w+)', said)
    where = f"{path}, line {line[1]}, in {line[2]}" if line else str(path)
    if code < 0:
        return (f"{where}: Python crashed here ({signal.Signals(-code).name}). Was an array read or written "
                "outside of its memory, say by as_strided?")
    return said or f"{where}: the code ended Python with exit code {code}, before the judge had finished."


# Progress


def read_progress():
    """{lesson: the SHA-256 of the file that was right}. What cannot be read counts as no progress."""
    try:
        progress = json.loads(PROGRESS.read_bytes())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


def listing(progress):
    """The lessons, evening by evening, with the learner's progress."""
    states = [state(lesson, progress) for lesson in LESSONS]
    done = sum(name.startswith("done") for name in states)
    lines = [f"{done} of {len(LESSONS)} lessons done, in {errors.printable(FOLDER.absolute())}", ""]
    for i, lesson in enumerate(LESSONS):
        new_evening = i == 0 or LESSONS[i - 1].evening != lesson.evening
        evening = f"evening {lesson.evening}" if new_evening else ""
        lines.append(f"  {evening:10}  {lesson.name:15} {lesson.title:40} {states[i]}".rstrip())
    left = [lesson for lesson, how in zip(LESSONS, states, strict=True) if not how.startswith("done")]
    lines += ["", f"Next: {COMMAND} {left[0].name}" if left else "All lessons are done."]
    return "\n".join([*lines, "The course, with reading and questions: tests/lessons/README.md"])


def state(lesson, progress):
    path = FOLDER / f"{lesson.name}.py"
    if not path.exists():
        return ""
    if lesson.name not in progress:
        return "begun"
    same = hashlib.sha256(path.read_bytes()).hexdigest() == progress[lesson.name]
    return "done" if same else "done, and changed since"


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Exercises that mark themselves. Without a name: the list, and your "
                                  "progress.",
        epilog="The first call writes lessons/NAME.py in the current folder, and later ones judge it.")
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--hint", type=int, choices=(1, 2, 3), help="print a hint: 1 is the vaguest")
    options = parser.parse_args(arguments)
    if options.hint and not options.name:
        parser.error(f"--hint needs the name of a lesson: {COMMAND} relu --hint 1")
    return options


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    sys.exit(errors.run(run, options.name, options.hint))
