"""Watches what a learner's functions are given, what they return, and how long they take."""

import functools
import inspect
import os
import sys
import threading
import time
import traceback

import torch

from scene.nn.layer import Layer
from tests.lessons.report import last_place

NOTHING = {"step", "run"}       # functions that return nothing
OTHERS = {"polynomial", "cook_toom", "wrong_gradients"}         # and functions that return lists


class Mistake(Exception):
    """A fault that is no wrong number, as a sentence."""


class Seen:
    """What a trial has shown to the learner's functions, for the report: arrays by name, and which layer."""

    def __init__(self):
        self.arrays = {}
        self.subject = ""
        self.depth = 0          # of watched functions that call watched functions: the outermost is noted

    def note(self, **arrays):
        self.arrays |= {name: array.detach().clone() for name, array in arrays.items()}

    def clear(self, subject=""):
        self.arrays.clear()
        self.subject = subject

    def numbers(self):
        """How many numbers the arrays have. The report shows the failing trial that has the fewest."""
        return sum(array.numel() for array in self.arrays.values())


def watched(function, name, seen):
    """The learner's function, with its arguments noted. It must return something and overwrite nothing."""
    parameters = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments, **options):
        bound = parameters.bind(*arguments, **options).arguments
        tensors = {key: value for key, value in bound.items() if isinstance(value, torch.Tensor)}
        layer = bound.get("self") if name.endswith("ward") else None    # forward or backward
        own = {key: getattr(layer, key, None) for key in getattr(layer, "parameters", ())}
        tensors |= {key: value for key, value in own.items() if isinstance(value, torch.Tensor)}
        before = {key: value.clone() for key, value in tensors.items()}
        if seen.depth == 0:
            seen.note(**tensors)
            if isinstance(bound.get("self"), Layer):
                seen.subject = repr(bound["self"])
        seen.depth += 1
        try:
            result = function(*arguments, **options)
        finally:
            seen.depth -= 1
        for key, value in tensors.items():
            if not torch.equal(value.nan_to_num(), before[key].nan_to_num()):
                raise Mistake(f"{name} has overwritten {key}, which it received. Compute into a new array "
                              "instead: operations that end in _, +=, and x[…] = … change an array.")
        check_result(name, result)
        return result

    return call


def check_result(name, result):
    """Raises Mistake for a function that should return an array and does not."""
    method = name.rpartition(".")[2]
    if result is None and method not in NOTHING:
        raise Mistake(f"{name} has returned None. Does it end in a return statement?")
    if method not in NOTHING | OTHERS and not isinstance(result, torch.Tensor):
        raise Mistake(f"{name} has returned a value of type {type(result).__name__}, not a torch tensor.")


class Watchdog(threading.Thread):
    """Ends the process, with a sentence, when the learner's code runs for too long.

    A thread, since it works on every system. It sees where the main thread is, and so names the line.
    """

    def __init__(self, path, tell):
        super().__init__(daemon=True)
        self.path = path
        self.tell = tell                    # called with the line and the seconds; returns the exit code
        self.main = threading.get_ident()
        self.seconds = self.end = None

    def allow(self, seconds):
        """From now on, so many seconds. None: as long as it takes."""
        self.seconds = seconds
        self.end = seconds and time.monotonic() + seconds

    def run(self):
        while True:
            time.sleep(0.1)
            if self.end and time.monotonic() > self.end:
                place = last_place(traceback.extract_stack(sys._current_frames()[self.main]), self.path)
                if place:
                    os._exit(self.tell(place, self.seconds))
                self.end += self.seconds        # it is not the learner's code that takes so long
