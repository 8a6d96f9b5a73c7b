"""What every command does about errors: people read a sentence and get an exit code, never a trace.

Next: photo.py
"""

import ctypes
import os
import signal
import sys
from contextlib import contextmanager, suppress

# NumPy's matrix library reads it when it is loaded: later than this in scene.main and scene.serve. Our products are small: a second
# thread takes longer than it saves, and the core from another process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]    # Ctrl-C, `kill`, a closed terminal


class UserError(Exception):
    """Something that the person at the keyboard can mend: a sentence or more, saying what is wrong, where, and what to do."""

    exit_code = 2


class Stopped(KeyboardInterrupt):
    """A signal has asked the program to end: Ctrl-C's and others."""

    def __init__(self, number=signal.SIGINT, message="Stopped."):
        super().__init__(message)
        self.exit_code = 128 + number


def stop(number, frame):
    """What a signal of STOPS does to a command."""
    raise Stopped(number)


@contextmanager
def postponed():
    """Within it, a signal of STOPS is only noted, in the list that this yields; a second one does what it always does."""
    def note(number, frame):
        noted.append(number)
        restore()

    def restore():
        for number, handler in usual.items():
            signal.signal(number, handler)

    noted, usual = [], {number: signal.getsignal(number) for number in STOPS}
    for number in STOPS:
        if usual[number] != signal.SIG_IGN:         # as in the background, or under nohup: it stays ignored
            signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def printable(name):
    r"""A name or path fit to be shown: bytes that are not UTF-8 as `\xff`, line breaks and other controls as `\n`."""
    def shown(c):
        if "\udc80" <= c <= "\udcff":                       # how Python keeps a byte of a file's name that is not UTF-8
            return f"\\x{ord(c) - 0xdc00:02x}"
        return c if c.isprintable() else c.encode("unicode_escape").decode()

    return "".join(map(shown, os.fsdecode(name)))


def run(work, *arguments):
    """Calls work(*arguments) and returns the command's exit code: work's own, or 0, or that of the error it ended with."""
    if sys.stdout is None or sys.stderr is None:            # the shell closed it
        sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))   # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")       # a terminal that knows no Greek is no reason to fail
    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        code = work(*arguments) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Stopped as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:                                  # whoever read our output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        print(f"{where}{error.strerror or error}.", file=sys.stderr)
        return 2
    except Exception as error:
        import tempfile
        import traceback

        with tempfile.NamedTemporaryFile("w", prefix="scene-", suffix=".log", delete=False, encoding="utf-8") as file:
            traceback.print_exc(file=file)
        print(f"Something unforeseen went wrong ({type(error).__name__}: {error}). The details are in {file.name}.", file=sys.stderr)
        return 1


MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "arena_max": -8}         # numbers of <malloc.h>


def tune_malloc(**limits):
    """Sets limits of glibc's malloc: which memory goes back to the system when it is freed. Another C library has its own ways."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, limit in limits.items():
            mallopt(MALLOPT[name], limit)
