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

import io
import os
import re
import sys

from scene import memory

# Control characters, ends of lines, surrogates, and what turns the direction of the text that follows.
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do."""

    exit_code = 2


def is_printable(name):
    """Whether a name stays what and where it is when it is printed. Python's isprintable is stricter.

    It refuses joiners, which Persian and many emoji need, other spaces than the usual one, and all characters
    that are newer than its tables, so that names printable for one Python are not for an older one.
    """
    return not UNPRINTABLE.search(name)


def printable(name):
    r"""A name or path that is safe to print: non-UTF-8 bytes as `\xff`, control characters as `\n`.

    Spaces at its start and end are shown, too, as `\x20`: "beach" and "beach " are two folders.
    """
    def shown(match):
        return "".join(map(escape, match[0]))

    def escape(c):
        if "\udc80" <= c <= "\udcff":           # how Python keeps a byte of a file name that is not UTF-8
            return f"\\x{ord(c) - 0xdc00:02x}"
        return "\\x20" if c == " " else c.encode("unicode_escape").decode()

    return re.sub(f"{UNPRINTABLE.pattern}|^\\s+|\\s+$", shown, os.fsdecode(name))


def listed(words, most=100):
    """Words with commas between them, of which the first are shown and the others counted."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")


def explain(error):
    """An OSError as a sentence."""
    where = f"{printable(error.filename)}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def run(work, *arguments):
    """Calls work(*arguments) and returns the exit code of the command: work's own, 0, or the error's."""
    from scene import signals  # here, not above: the function in AWS Lambda needs none of it

    prepare_streams()
    signals.stop_on_signals()
    code = call(work, arguments)
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:                             # its reader has gone, say `head`, or its terminal is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1
    return code


def call(work, arguments):
    """Calls work(*arguments), says what went wrong, and returns the exit code."""
    from scene.signals import Stopped  # as above

    try:
        return work(*arguments) or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Stopped as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except Exception as error:
        if memory.is_exhausted(error):
            print(f"{memory.describe(error)} Close other programs.", file=sys.stderr)
            return 2
        if isinstance(error, OSError):
            print(explain(error), file=sys.stderr)
            return 2
        notes = "".join(f" {note}" for note in getattr(error, "__notes__", []))
        print(f"Scene failed unexpectedly ({type(error).__name__}: {error}). "
              f"The traceback is in {save_traceback()}.{notes}", file=sys.stderr)
        return 1


class Lasting(io.FileIO):
    """A file descriptor that drops what it cannot write. For stdout, stderr says so once."""

    silent = False

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            if not self.silent:
                self.silent = True
                print(f"The output cannot be written ({error.strerror}), so Scene goes on without it.",
                      file=sys.stderr)
            return len(data)


def outlast(stream):
    """The same stream, except that writing to it raises no OSError, such as when its reader has gone."""
    stream.flush()
    raw = Lasting(stream.fileno(), "wb", closefd=False)
    raw.silent = stream is sys.stderr
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors,
                            line_buffering=stream.line_buffering or stream.write_through)


def outlast_reader():
    """Lets a command finish although nobody reads its output any more: its work is worth more than its words.

    Without this, a broken pipe ends the command, as it should where the words are all there is.
    """
    if sys.stdout is sys.__stdout__:            # and not a test's
        sys.stdout = outlast(sys.stdout)


def prepare_streams():
    """Makes stdout and stderr safe to print to, even if the shell closed them or the terminal is ASCII.

    A message that cannot be shown, on a terminal that was closed, must not hide the exit code.
    """
    if sys.stdout is None or sys.stderr is None:
        sys.stdout = sys.stdout or open(os.devnull, "w")        # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w")        # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = outlast(sys.stderr)


def save_traceback():
    """Writes the traceback of the current exception to a temporary file, and returns its name."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="scene-", suffix=".log", delete=False,
                                     encoding="utf-8") as file:
        traceback.print_exc(file=file)
    return file.name
