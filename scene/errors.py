"""Errors as users see them: a sentence and an exit code, never a traceback.

UserError           the user can fix it: a sentence that says what is wrong, where, and what to do
├── DataError           photos/findings.py: folders or photos that cannot be used
├── ModelFileError      answer/modelfile.py: not one of Scene's model files, or a damaged one
├── CheckpointError     learn/checkpoint.py: a checkpoint that cannot be written or used
├── NetworkError        learn/check.py: a network that the training loop cannot train
└── Diverged            learn/progress.py: the loss has exploded
signals.Stopped     a signal asked the program to stop

Next: signals.py
"""

import os
import sys

from scene.signals import Stopped, stop_on_signals


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do."""

    exit_code = 2


def printable(name):
    r"""A name or path that is safe to print: non-UTF-8 bytes as `\xff`, control characters as `\n`."""
    def shown(c):
        if "\udc80" <= c <= "\udcff":           # how Python keeps a byte of a file name that is not UTF-8
            return f"\\x{ord(c) - 0xdc00:02x}"
        return c if c.isprintable() else c.encode("unicode_escape").decode()

    return "".join(map(shown, os.fsdecode(name)))


def run(work, *arguments):
    """Calls work(*arguments) and returns the exit code of the command: work's own, 0, or the error's."""
    prepare_streams()
    stop_on_signals()
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
    except BrokenPipeError:                     # the reader of our output, say `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        print(f"{where}{error.strerror or error}.", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"Scene failed unexpectedly ({type(error).__name__}: {error}). "
              f"The traceback is in {save_traceback()}.", file=sys.stderr)
        return 1


def prepare_streams():
    """Makes stdout and stderr safe to print to, even if the shell closed them or the terminal is ASCII."""
    if sys.stdout is None or sys.stderr is None:
        sys.stdout = sys.stdout or open(os.devnull, "w")        # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w")        # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


def save_traceback():
    """Writes the traceback of the current exception to a temporary file, and returns its name."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="scene-", suffix=".log", delete=False,
                                     encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return file.name
