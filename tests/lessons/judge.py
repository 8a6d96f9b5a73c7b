"""Judges a learner's file, in a process of its own: python -m tests.lessons.judge NAME FILE

It prints what is right or wrong. The exit code is DONE or NOT_YET, which no other end of Python has.
"""

import ast
import faulthandler
import inspect
import io
import os
import re
import statistics
import sys
import time
import traceback
import types
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings

from scene import errors, memory
from tests.lessons import DONE, NOT_YET, catalogue
from tests.lessons.skeleton import Source, enumeration
from tests.lessons.trials import TRIALS, words
from tests.lessons.watch import Mistake, Seen, Watchdog, check_result, last_place, watched
from tests.oracle import Mismatch

MEMORY = 4 << 30            # bytes that a learner's code may take
BUDGET = 60                 # seconds for all cases, and for finding the smallest one that fails
RACE = 0.5                  # seconds
RACE_LIMIT = 20             # seconds, with the first call
MOST_NUMBERS = 30           # of an array that is printed whole
WIDTH = 90                  # of a line of numbers
MOST_LINES = 10             # of what the learner's code printed
FORBIDDEN_MODULES = {"nn", "autograd", "func", "optim", "jit", "compile", "vmap"}       # of torch
FORBIDDEN_METHODS = {"relu", "relu_", "softmax", "log_softmax", "unfold", "requires_grad", "requires_grad_"}


class NotYet(Exception):
    """Why a lesson is not done: the text to print."""


class OutOfTime(BaseException):
    """The budget is spent. Hypothesis lets this pass."""


def main(name, path):
    torch.set_num_threads(1)
    limit_memory()
    lesson = catalogue.find(name)
    seen = Seen()
    try:
        watchdog = Watchdog(path, lambda place, seconds: stuck(path, place, seconds, seen))
        watchdog.start()
        print(judge(lesson, path, TRIALS[lesson.name], seen, watchdog), flush=True)
    except NotYet as reason:
        print(reason)
        return NOT_YET
    watchdog.tell = lambda *_: too_slow()
    print(race(lesson, path, TRIALS[lesson.name], watchdog), flush=True)
    return DONE


def limit_memory():
    """Turns a list that grows without end into a MemoryError at its line, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass


def judge(lesson, path, trial, seen, watchdog):
    """Returns what to say to a learner whose file is right, and raises NotYet otherwise."""
    watchdog.allow(trial.seconds)
    theirs = load(lesson, path)
    watchdog.allow(None)
    missing = unwritten(lesson, theirs)
    if lesson.write[0] in missing:
        raise NotYet(f"{path}: {lesson.write[0]} is not written yet. Replace its line `raise NotImplementedError(…)` "
                     "with your code, and run the command again.")
    watch(lesson, theirs, seen)
    search = Search(lesson, path, theirs, trial, seen, watchdog)
    tried = search.run()
    if missing:
        done = lesson.write[:lesson.write.index(missing[0])]
        raise NotYet(f"{enumeration(done)} {'is' if len(done) == 1 else 'are'} right in {tried} cases. "
                     f"Next, write {missing[0]} in {path}.")
    return f"Right: {enumeration(lesson.write)} in {path} {agrees(lesson, tried)}."


def agrees(lesson, tried):
    verb = "agrees" if len(lesson.write) == 1 else "agree"
    return f"{verb} with the reference" + (f" in {tried} cases" if tried > 1 else "")


# The learner's file


def load(lesson, path):
    """The learner's module. Raises NotYet if it cannot be one of this lesson."""
    try:
        code = compile(Path(path).read_bytes(), path, "exec")
        tree = ast.parse(Path(path).read_bytes())
    except SyntaxError as error:
        raise NotYet(describe_syntax(path, error)) from None
    except ValueError as error:
        raise NotYet(f"{path} cannot be read as Python: {error}.") from None
    refuse_forbidden(path, tree)
    module = types.ModuleType(f"lessons.{lesson.name}")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            exec(code, vars(module))
    except (Exception, SystemExit) as error:
        raise NotYet(describe(path, error)) from None
    source = Source(lesson.source)
    for name in lesson.write:
        check_signature(path, name, find_function(path, module, name), source)
        check_base(path, module, source, name.partition(".")[0])
    return module


def describe_syntax(path, error):
    text = (error.text or "").rstrip("\n")
    shown = f"\n    {text.strip()}" if text.strip() else ""
    line = f", line {error.lineno}" if error.lineno else ""
    return f"{path}{line}: Python cannot read this ({error.msg}).{shown}"


def refuse_forbidden(path, tree):
    """Raises NotYet if the file uses what would do the lesson."""
    for node in ast.walk(tree):
        used = None
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            full = [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else names
            used = next((name for name in full if forbidden(name)), None)
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            used = name if forbidden(name) or node.attr in FORBIDDEN_METHODS else None
        if used:
            raise NotYet(f"{path}, line {node.lineno}: {used} would do the lesson for you. Write it with tensor "
                         "operations.")


def forbidden(name):
    first, _, rest = name.partition(".")
    return first == "torch" and rest.partition(".")[0] in FORBIDDEN_MODULES


def find_function(path, module, name):
    """The function that the learner has written: "ReLU.forward" or "softmax"."""
    owner, _, method = name.partition(".")
    found = vars(module).get(owner)
    if method:
        found = vars(found).get(method) if isinstance(found, type) else None
    code = getattr(found, "__code__", None)
    if code is None or code.co_filename != path:
        raise NotYet(f"{path} has no {name} of its own. To see the skeleton again, rename your file and run the "
                     "command once more.")
    return found


def check_signature(path, name, function, source):
    """Raises NotYet if Scene could not call the learner's function as it calls its own."""
    owner, _, method = name.partition(".")
    node = source.named[owner]
    if method:
        node = next(child for child in node.body if getattr(child, "name", "") == method)
    wanted = f"({ast.unparse(node.args)})"
    scope = {}
    exec(f"def wanted{wanted}: pass", scope)
    if [*inspect.signature(scope["wanted"]).parameters] != [*inspect.signature(function).parameters]:
        raise NotYet(f"{path}: {name} takes {inspect.signature(function)}, but Scene calls it as {wanted}. Restore "
                     "the line with its def.")


def check_base(path, module, source, owner):
    """Raises NotYet if the learner's class no longer derives from what Scene's derives from."""
    bases = [base.id for base in getattr(source.named[owner], "bases", ())]
    if bases and bases[0] not in [kind.__name__ for kind in vars(module)[owner].__mro__]:
        raise NotYet(f"{path}: {owner} does not derive from {bases[0]}. Restore the line `class {owner}({bases[0]}):`.")


def unwritten(lesson, module):
    """The functions whose body still is the skeleton's error."""
    def is_there(name):
        owner, _, method = name.partition(".")
        function = getattr(vars(module)[owner], method) if method else vars(module)[owner]
        return f"{name} is not written yet" in function.__code__.co_consts

    return [name for name in lesson.write if is_there(name)]


def watch(lesson, module, seen):
    """Puts watched functions in the place of the learner's."""
    for name in lesson.write:
        owner, _, method = name.partition(".")
        place, key = (vars(module)[owner], method) if method else (module, owner)
        setattr(place, key, watched(vars(place)[key], name, seen))


# Trying it


class Failed(Exception):
    """A case failed, whatever the fault: so Hypothesis looks for the smallest case of any fault."""


class Search:
    """Looks for a case in which the learner's code is wrong, and for the smallest one."""

    def __init__(self, lesson, path, theirs, trial, seen, watchdog):
        self.path, self.theirs, self.trial = path, theirs, trial
        self.seen, self.watchdog = seen, watchdog
        self.missing = {f"{name} is not written yet" for name in lesson.write}
        self.cases = set()
        self.worst = None           # (numbers shown, the text of the report) of the smallest failure so far

    def run(self):
        """Returns how many cases passed, or raises NotYet with the smallest that fails."""
        end = time.monotonic() + BUDGET

        @settings(max_examples=self.trial.count, deadline=None, derandomize=True, database=None,
                  report_multiple_bugs=False, phases=(Phase.generate, Phase.shrink),
                  suppress_health_check=list(HealthCheck))
        @given(self.trial.cases)
        def every_case(case):
            if time.monotonic() > end:
                raise OutOfTime
            self.cases.add(repr(case))
            self.attempt(self.trial.run, case)

        try:
            every_case()
        except OutOfTime:
            pass
        except Exception:           # Failed, or Hypothesis's word for code that fails in some calls only
            if self.worst is None:
                raise
        if self.worst is None and self.trial.last:
            try:
                self.attempt(self.trial.last)
            except Failed:
                pass
        if self.worst:
            raise NotYet(self.worst[1])
        return len(self.cases)

    def attempt(self, run, *case):
        """One case. Raises Failed, and keeps the report if no smaller failure is known."""
        self.seen.clear()
        self.watchdog.allow(self.trial.seconds)
        printed = io.StringIO()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                run(self.theirs, self.seen, *case)
        except Mismatch as error:
            self.fail(describe_mismatch(error, self.seen), printed)
        except Mistake as error:
            self.fail(str(error), printed)
        except (Exception, SystemExit) as error:
            if str(error) not in self.missing:
                self.fail(describe(self.path, error), printed)
        finally:
            self.watchdog.allow(None)

    def fail(self, text, printed):
        size = self.seen.numbers()
        if self.worst is None or size <= self.worst[0]:
            shown = [f"Wrong: {text}" if not text.startswith(self.path) else text]
            if self.seen.arrays:
                subject = f", {self.seen.subject}" if self.seen.subject else ""
                shown += [f"The smallest case that was found{subject}:" if self.trial.count > 1 else "Given:"]
            shown += describe_arrays(self.seen.arrays) + describe_output(printed.getvalue())
            self.worst = size, "\n".join(shown)
        raise Failed


# Words


def describe(path, error):
    """An exception as a sentence, with the learner's own line."""
    name = type(error).__name__
    first = (str(error).strip().splitlines() or [""])[0][:200]
    if memory.is_exhausted(error):
        name, first = "MemoryError", f"this line asks for more than the {MEMORY >> 30} GB that a lesson may take"
    what = f"{name}: {first}" if first else name
    place = last_place(traceback.extract_tb(error.__traceback__), path)
    if place is None:
        return f"Scene could not go on with what {path} gave it ({what})."
    return f"{path}, line {place.lineno}, in {place.name}: {what}\n    {place.line}"


def describe_mismatch(error, seen):
    """A wrong array as a sentence, and both arrays."""
    what, ours, theirs = error.what, error.ours.detach(), error.theirs.detach()
    if ours.shape != theirs.shape:
        return f"{what} has the shape {tuple(ours.shape)}, but the reference's has {tuple(theirs.shape)}."
    if ours.dtype != theirs.dtype:
        return (f"{what} is {words(ours.dtype)}, but the arrays that it is computed from are {words(theirs.dtype)}. Give "
                "new arrays their dtype, as x.new_zeros(…) and torch.zeros_like(x) do.")
    if ours.isnan().all() and what[1:] in seen.arrays and what != "dx":
        return (f"{what} is what it was before backward (here NaN). Write it with self.{what}[...] = …, since self.{what} = … "
                "makes another array, and += adds to the step before.")
    wrong = ~torch.isclose(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)
    if not wrong.any():
        wrong = ours != theirs
    count = int(wrong.sum())
    where = "" if ours.numel() == 1 else f" in {count} of {ours.numel()} numbers" if count > 1 else " in one number"
    if ours.numel() > MOST_NUMBERS:
        first = tuple(wrong.nonzero()[0].tolist())
        rows = f"\n    first at {list(first)}: yours {ours[first].item():.4g}, reference {theirs[first].item():.4g}"
    else:
        rows = f"\n    yours       {array_text(ours, 16)}\n    reference   {array_text(theirs, 16)}"
    return f"{what} is wrong{where}.{rows}"


def describe_arrays(arrays):
    """What the learner's code was given, a line or more for each array."""
    lines = []
    for name, array in arrays.items():
        shape = f" {tuple(array.shape)}" if array.ndim else ""
        text = f":  {array_text(array, 8)}" if array.numel() <= MOST_NUMBERS else ""
        lines.append(f"    {name}{shape}{text}".replace(":  [", ":\n        [" if "\n" in text else ":  ["))
    return lines


def array_text(array, indent):
    """An array's numbers, four digits each, on one line, or on several that begin under each other."""
    array = array.double().round(decimals=4) + 0.0                      # + 0.0: no -0
    line = nested(array.tolist())
    if len(line) <= WIDTH:
        return line
    rows = np.array2string(array.numpy(), separator=", ", max_line_width=WIDTH, precision=4, suppress_small=True)
    return re.sub(r"\n+", "\n" + " " * indent, rows)


def nested(numbers):
    """Numbers in nested lists, on one line."""
    return f"[{', '.join(map(nested, numbers))}]" if isinstance(numbers, list) else f"{numbers:.5g}"


def describe_output(text):
    """What the learner's code printed in this case."""
    lines = text.splitlines()
    if not lines:
        return []
    more = [f"    … and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
    return ["Your code printed:", *(f"    {line}" for line in lines[:MOST_LINES]), *more]


def stuck(path, place, seconds, seen):
    """Called by the watchdog: says where the learner's code hangs."""
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in seen.arrays.items() if array.ndim)
    given = f", given {shapes}" if shapes else ""
    print(f"{path}, line {place.lineno}, in {place.name}: this line was still running after {seconds:g} s{given}. Is there "
          f"a loop that does not end?\n    {place.line}", file=sys.__stdout__, flush=True)
    return NOT_YET


# Speed


def race(lesson, path, trial, watchdog):
    """How long the learner's code takes beside Scene's, in turns, as a sentence."""
    watchdog.allow(RACE_LIMIT)
    scene = vars(__import__(Source(lesson.source).module, fromlist=["*"]))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        sides = [trial.race(load(lesson, path)), trial.race(types.SimpleNamespace(**scene))]
        times = [[timed(side)] for side in sides]
        end = time.monotonic() + RACE
        while time.monotonic() < end:
            for side, record in zip(sides, times, strict=True):
                record.append(timed(side))
    ours, theirs = (statistics.median(record[1:] or record) for record in times)
    return (f"Speed: {ours / theirs:.2g} times as long as Scene's ({duration(ours)} beside {duration(theirs)}, "
            f"{trial.raced}).")


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def duration(seconds):
    return f"{seconds:.2g} s" if seconds >= 1 else f"{seconds * 1e3:.2g} ms"


def too_slow():
    """Called by the watchdog in the race. The lesson is done all the same."""
    print("Speed: too slow to be measured on a batch of the usual size, where Scene takes milliseconds. Which loop "
          "could be one operation on a whole array?", file=sys.__stdout__, flush=True)
    return DONE


if __name__ == "__main__":
    faulthandler.enable()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(errors.run(main, *sys.argv[1:]))
