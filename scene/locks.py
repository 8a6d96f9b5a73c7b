"""Locks between processes, on files. The system frees the lock of a process that ends, however it ends.

Next: memory.py
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:         # Windows has none, so nothing is locked there
    fcntl = None

HELD = set()                # the descriptors of `locked`


class Locked(Exception):
    """Another process holds the lock. The message is the note that it left in the lock file."""


def lock(handle: int) -> bool:
    """Locks an open file until it is closed, or its process ends.

    Returns False if the file system has no locks. Raises BlockingIOError if the file is locked already, and
    OSError (EBADF) if the file system locks only files that are open for writing.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EBADF):
            raise
        return False
    return True


def is_at(handle: int, path: str) -> bool:
    """Whether an open file is still the one at path. Another process may have deleted it meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def locked(path: str, note: str) -> Iterator[bool]:
    """Holds a lock inside the block, on a file at path with a note for people in it.

    Yields False if the file system has no locks. Raises Locked if another process holds it, and OSError.
    """
    handle, real = open_locked(path)
    HELD.add(handle)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{note}\n")
        yield real
    finally:
        with suppress(OSError):
            os.unlink(path)
        HELD.discard(handle)
        os.close(handle)


def open_locked(path: str) -> tuple[int, bool]:
    """Opens the file at path, making it if need be, and locks it: -> (handle, whether there are locks)."""
    # Read-only, since a file open for writing keeps a disk from being unmounted or made read-only.
    access = os.O_RDONLY
    while True:
        handle = os.open(path, os.O_CREAT | access, 0o666)
        try:
            real = lock(handle)
            if is_at(handle, path):
                return handle, real     # if not, the process before us has just deleted it
        except BlockingIOError as error:
            os.close(handle)
            raise Locked(read_note(path)) from error
        except OSError:                 # EBADF: NFS locks only what is open for writing
            if access == os.O_RDWR:
                return handle, False
            access = os.O_RDWR
        os.close(handle)


def read_note(path: str) -> str:
    """What the holder of a lock wrote into its file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1000).strip()
    except OSError:
        return ""


def release_in_child() -> None:
    """Closes a forked process's copies of the locks. Otherwise a killed parent's workers would keep them."""
    while HELD:
        os.close(HELD.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_in_child)
