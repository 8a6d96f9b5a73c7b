"""Judges a learner's file, in a process of its own: python -m tests.lessons.judge NAME FILE

It prints what is right or wrong. The exit code is DONE or NOT_YET, which no other end of Python has.
"""

import faulthandler
import importlib
import io
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from scene import errors
from scene.learn.loop import prepare
from tests.lessons import DONE, NOT_YET, catalogue
from tests.lessons.report import (
    MEMORY,
    NotYet,
    describe,
    describe_arrays,
    describe_mismatch,
    describe_output,
)
from tests.lessons.skeleton import Source, enumeration
from tests.lessons.submission import holder, load, unwritten
from tests.lessons.trials import TRIALS
from tests.lessons.watch import Mistake, Seen, Watchdog, watched
from tests.oracle import Mismatch

BUDGET = 60                 # seconds for all cases, and for finding the smallest one that fails
RACE = 0.5                  # seconds
RACE_LIMIT = 20             # seconds, with the first call


class OutOfTime(BaseException):
    """The budget is spent. Not an Exception, so Hypothesis stops at once."""


def main(name, path):
    prepare()
    limit_memory()
    lesson = catalogue.find(name)
    trial = TRIALS[lesson.name]
    seen = Seen()
    watchdog = Watchdog(path, lambda place, seconds: stuck(path, place, seconds, seen))
    watchdog.start()
    try:
        print(judge(lesson, path, trial, seen, watchdog), flush=True)
    except NotYet as reason:
        print(reason)
        return NOT_YET
    watchdog.tell = too_slow
    print(race(lesson, path, trial, watchdog), flush=True)
    return DONE


def limit_memory():
    """Turns a list that grows without end into a MemoryError at its line, where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))


def judge(lesson, path, trial, seen, watchdog):
    """What to say to a learner whose file is right. Raises NotYet if it is not, or not whole."""
    watchdog.allow(trial.seconds)
    theirs = load(lesson, path)
    watchdog.allow(None)
    missing = unwritten(lesson, theirs)
    if lesson.write[0] in missing:
        raise NotYet(f"{path}: {lesson.write[0]} is not written yet. Replace its line "
                     "`raise NotImplementedError(…)` with your code, and run the command again.")
    for name in lesson.write:
        place, key = holder(theirs, name)
        setattr(place, key, watched(vars(place)[key], name, seen))
    search = Search(lesson, path, theirs, trial, seen, watchdog)
    cases = search.run()
    times = f" in {cases} cases" if cases > 1 else ""
    if search.stopped:
        times += f" (more would have taken longer than {BUDGET} s)"
    if missing:
        written = lesson.write[:lesson.write.index(missing[0])]
        are = "is" if len(written) == 1 else "are"
        raise NotYet(f"{enumeration(written)} {are} right{times}. Next, write {missing[0]} in {path}.")
    agree = "agrees" if len(lesson.write) == 1 else "agree"
    right = f"Right: {enumeration(lesson.write)} in {path} {agree} with the reference{times}."
    return "\n".join([right, *(describe_output(search.printed) if trial.count == 1 else [])])


class Failed(Exception):
    """A case failed, whatever the fault: so Hypothesis looks for the smallest case of any fault."""


class Search:
    """Looks for a case in which the learner's code is wrong, and for the smallest one."""

    def __init__(self, lesson, path, theirs, trial, seen, watchdog):
        self.path, self.theirs, self.trial = path, theirs, trial
        self.seen, self.watchdog = seen, watchdog
        self.missing = {f"{name} is not written yet" for name in lesson.write}
        self.cases = set()
        self.stopped = False        # before all cases were tried
        self.printed = ""           # by the learner's code, in the last case
        self.worst = None           # (how many numbers it shows, the report) of the smallest failure so far

    def run(self):
        """The number of cases that passed. Raises NotYet with the smallest one that did not."""
        end = time.monotonic() + BUDGET

        @settings(max_examples=self.trial.count, deadline=None, derandomize=True, database=None,
                  report_multiple_bugs=False, phases=(Phase.generate, Phase.shrink),
                  suppress_health_check=list(HealthCheck))
        @given(self.trial.cases)
        def every_case(case):
            if self.cases and time.monotonic() > end:
                self.stopped = True
                raise OutOfTime
            self.cases.add(repr(case))
            self.attempt(self.trial.run, case)

        try:
            every_case()
        except OutOfTime:
            pass
        except Exception:           # Failed, or what Hypothesis says of code that fails in some calls only
            if self.worst is None:
                raise
        if self.worst is None and self.trial.last:
            with suppress(Failed):
                self.attempt(self.trial.last)
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
            self.fail(f"Wrong: {describe_mismatch(error, self.seen)}", printed)
        except Mistake as error:
            self.fail(f"Wrong: {error}", printed)
        except (Exception, SystemExit) as error:
            if str(error) not in self.missing:
                self.fail(describe(self.path, error), printed)
        finally:
            self.watchdog.allow(None)
            self.printed = printed.getvalue()

    def fail(self, text, printed):
        size = self.seen.numbers()
        if self.worst is None or size <= self.worst[0]:
            lines = [text]
            if self.seen.arrays:
                subject = f", {self.seen.subject}" if self.seen.subject else ""
                lines += [f"The smallest case that was found{subject}:" if self.trial.count > 1 else "Given:"]
            lines += describe_arrays(self.seen.arrays) + describe_output(printed.getvalue())
            self.worst = size, "\n".join(lines)
        raise Failed


def stuck(path, place, seconds, seen):
    """Called by the watchdog: says where the learner's code hangs."""
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in seen.arrays.items() if array.ndim)
    given = f", given {shapes}" if shapes else ""
    print(f"{path}, line {place.lineno}, in {place.name}: this line was still running after {seconds:g} s"
          f"{given}. Is there a loop that does not end?\n    {place.line}", file=sys.__stdout__, flush=True)
    return NOT_YET


# Speed


def race(lesson, path, trial, watchdog):
    """How long the learner's code takes beside Scene's, in turns, as a sentence."""
    watchdog.allow(RACE_LIMIT if trial.count > 1 else 2 * trial.seconds)
    scene = importlib.import_module(Source(lesson.source).module)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        sides = [trial.race(load(lesson, path)), trial.race(scene)]
        times = [[timed(side)] for side in sides]
        end = time.monotonic() + RACE
        while time.monotonic() < end:
            for side, record in zip(sides, times, strict=True):
                record.append(timed(side))
    ours, theirs = map(min, times)              # the fastest call is the one that was disturbed least
    beside = f"{duration(ours)} beside {duration(theirs)}, {trial.raced}"
    return f"Speed, not marked: {ours / theirs:.2g} times as long as Scene's ({beside})."


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def duration(seconds):
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2g} ms"


def too_slow(place, seconds):
    """Called by the watchdog in the race. The lesson is done all the same."""
    print(f"Speed: not measured, since your code takes more than {seconds:g} s for a batch of usual size. "
          "Which loop could be one operation on a whole array?", file=sys.__stdout__, flush=True)
    return DONE


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(errors.run(main, *sys.argv[1:]))
