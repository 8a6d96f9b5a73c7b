"""Signals that ask a command to stop: Ctrl-C, `kill`, a closed terminal.

Next: files.py
"""

import signal
from contextlib import contextmanager

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
        restore()

    def restore():
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in STOPS:
        if usual[number] != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()
    if noted:
        raise Stopped(noted[0])
