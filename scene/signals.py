"""Signals that ask a command to stop: Ctrl-C, `kill`, a closed terminal.

Next: files.py
"""

import signal
import threading
from contextlib import ExitStack, contextmanager

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    MESSAGE = "Stopped."

    def __init__(self, number=signal.SIGINT, message=MESSAGE):
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


def stop_on_signals():
    """Makes the signals of STOPS raise Stopped, except ignored ones, as under nohup or in the background."""
    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_stopped)


def raise_stopped(number, frame):
    """The signal handler of a command."""
    raise Stopped(number)


def ignore_stops():
    """Makes a worker ignore STOPS: Ctrl-C in a terminal reaches all processes, but the parent decides."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def postponed():
    """Inside this block a stop signal is only noted, in the list it yields. A second one acts as usual.

    The block then stops at a point of its own choosing. If it runs to its end instead, Stopped is raised
    there, so no signal is lost.
    """
    noted = []
    usual = {number: signal.getsignal(number) for number in STOPS}

    def note(number, frame):
        noted.append(number)
        if len(noted) > 1:
            signal.signal(number, usual[number])
            signal.raise_signal(number)

    with replaced(note):
        yield noted
    if noted:
        raise Stopped(noted[0])


@contextmanager
def deferred():
    """Inside this block stop signals wait: they are delivered after it, even if it raises.

    For a block that an exception would leave half done, or that runs code which drops exceptions, as Python
    does around a fork. In a process that is forked in it, they are blocked until it unblocks them.
    """
    waiting = []
    try:
        # Blocking them alone would not do: another thread may get them, and the handlers run in this one.
        with replaced(lambda number, frame: waiting.append(number)), blocked():
            yield
    finally:
        for number in waiting:
            signal.raise_signal(number)


@contextmanager
def replaced(handler):
    """Inside this block `handler` handles STOPS, except ignored ones.

    Outside the main thread this does nothing: Python runs handlers only in the main thread.
    """
    here = STOPS if threading.current_thread() is threading.main_thread() else ()
    usual = {number: before for number in here
             if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None)}     # None: not Python's
    try:
        handle(dict.fromkeys(usual, handler))
        yield
    finally:
        handle(usual)


def handle(handlers):
    """Sets all of {number: handler}, also if a signal comes meanwhile."""
    with blocked(), ExitStack() as stack:
        for number, handler in handlers.items():
            stack.callback(signal.signal, number, handler)


@contextmanager
def blocked():
    """Inside this block the system holds STOPS back from this thread. Does nothing on Windows."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)         # may raise, for a signal just before it
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
