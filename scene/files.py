"""Atomic file writes, and the names that files can have.

Next: processes.py
"""

import glob
import os
import re


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes bytes to path atomically: an older file stays until the new one is on the disk.

    Raises OSError.
    """
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(os.path.dirname(path))
    except BaseException as error:
        if os.path.exists(part):
            os.unlink(part)
        if isinstance(error, OSError):
            # The name of the temporary file would mean nothing to the user.
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def sweep(path: str | os.PathLike) -> None:
    """Deletes the temporary files of processes that were killed while writing path, and of no others."""
    for part in glob.glob(f"{glob.escape(path)}.*.part"):
        owner = re.fullmatch(r"\.(\d+)\.part", part[len(os.fspath(path)):])
        if owner and not is_running(int(owner[1])):
            os.unlink(part)


def is_running(pid: int) -> bool:
    """Whether a process with this number runs on this machine, as far as can be told; else True."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def sync_folder(folder: str) -> None:
    """Flushes a folder's entries to the disk, where the system can, so that they survive a power cut."""
    if os.name == "posix":
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_path_component(name: str) -> bool:
    """Whether a name can be that of a file or folder: no separator or NUL in it, and at most 255 bytes."""
    length = len(name.encode("utf-8", "surrogateescape"))
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and length <= 255
