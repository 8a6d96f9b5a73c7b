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

    def note(number, frame):
        noted.append(number)
        handlers.close()

    with replaced(note) as handlers:
        yield noted
    if noted:
        raise Stopped(noted[0])


@contextmanager
def held_back():
    """Inside this block stop signals wait: they act after it, when the usual handlers are back.

    For a block that an exception would leave half done, or that runs code which drops exceptions, as Python
    does around a fork. A process forked in it inherits this, so it does not stop before it ignores signals.
    """
    waiting = []
    with replaced(lambda number, frame: waiting.append(number)):
        yield
    for number in waiting:
        signal.raise_signal(number)


@contextmanager
def replaced(handler):
    """Inside this block `handler` handles STOPS, except ignored ones. Yields what can bring the others back.

    In another thread than the main one nothing is replaced: signals raise nothing there.
    """
    with ExitStack() as handlers:           # brings all of them back, even if one of them raises Stopped
        for number in STOPS if threading.current_thread() is threading.main_thread() else ():
            usual = signal.getsignal(number)
            if usual not in (signal.SIG_IGN, None):             # None: not set by Python
                signal.signal(number, handler)
                handlers.callback(signal.signal, number, usual)
        yield handlers
