"""Signals that ask a command to stop: Ctrl-C, `kill`, a closed terminal.

Next: files.py
"""

import signal
from contextlib import contextmanager

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, number=signal.SIGINT, message="Stopped."):
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


def stop_on_signals():
    """Makes every signal of STOPS raise Stopped, unless it is ignored, as under nohup or in the background.
    """
    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, raise_stopped)


def raise_stopped(number, frame):
    """The signal handler of a command."""
    raise Stopped(number)


def ignore_stops():
    """For worker processes: Ctrl-C in a terminal reaches every process, and the parent decides for all."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def postponed():
    """Inside this block a stop signal is only noted, in the list that it yields; a second one acts as usual.

    The block ends the work at a place of its own choosing. If it runs to its end all the same, Stopped is
    raised there: no signal is lost.
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
