"""How much memory there is, how to tell that it has run out, and when freed memory is returned.

Next: processes.py
"""

import ctypes
import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress

CGROUPS = "/sys/fs/cgroup"
OWN_GROUPS = "/proc/self/cgroup"
NAMES = {                   # of the files of the controller "memory" in each version of cgroups
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
UNLIMITED = 1 << 60         # bytes: where version 1 of cgroups has no limit, it names a number above this
MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "arena_max": -8}         # the numbers of <malloc.h>
# What torch, NumPy and workers say. CUDA says "out of memory". oneDNN, which multiplies matrices for torch,
# gives no reason: an operation that it does not support lacks a "primitive descriptor", one without memory a
# "primitive".
NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory|MemoryError|Unable to allocate|"
                       "bad_alloc|could not (?:create|execute) a (?:primitive|memory)(?! descriptor)")
WANTED = re.compile(r"tried to allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]i?B)")


def available() -> float:
    """The bytes of memory that this process can still get, swap included, or infinity if that is unknown."""
    return min([*machine(), *cgroups(), *address_space()], default=math.inf)


def machine() -> Iterator[int]:
    """What is free on the machine, on Linux."""
    with suppress(OSError, KeyError, ValueError), open("/proc/meminfo") as file:
        kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in file)}
        yield 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])


def cgroups() -> Iterator[int]:
    """What the limits of a container leave free: those of this process's groups, and of their parents."""
    for version, folder in groups("memory"):
        limit, usage, cache = NAMES[version]
        with suppress(OSError, ValueError):             # ValueError: "max"
            most = read_number(f"{folder}/{limit}")
            with open(f"{folder}/memory.stat") as file:
                reclaimable = dict(line.split() for line in file).get(cache, 0)
            if most < UNLIMITED:
                yield max(0, most - read_number(f"{folder}/{usage}") + int(reclaimable))


def groups(controller: str) -> Iterator[tuple[int, str]]:
    """The version and the folder of this process's groups of a controller, and of their parents.

    In a container its own group may lie at the root instead.
    """
    with suppress(OSError), open(OWN_GROUPS) as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            parts = [part for part in path.split("/") if part]
            for depth in range(len(parts), -1, -1):
                if controllers == "":
                    yield 2, os.path.join(CGROUPS, *parts[:depth])
                elif controller in controllers.split(","):
                    yield 1, os.path.join(CGROUPS, controller, *parts[:depth])


def read_number(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def address_space() -> Iterator[int]:
    """What `ulimit -v` leaves free."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            with open("/proc/self/statm") as file:
                yield max(0, most - int(file.read().split()[0]) * resource.getpagesize())


def is_exhausted(error: BaseException) -> bool:
    """Whether an exception says that memory has run out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return bool(NO_MEMORY.search(str(error)))
    return isinstance(error, MemoryError)


def describe(error: BaseException) -> str:
    """What `is_exhausted` found, as a sentence."""
    found = WANTED.search(str(error))
    wanted = found and (size(int(found[1])) if found[1] else found[2])
    return f"Memory has run out: another {wanted} could not be had." if wanted else "Memory has run out."


def size(number: float) -> str:
    """A number of bytes with its unit: "1.2 GB"."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"


def tune_malloc(**limits: int) -> None:
    """Sets options of glibc's malloc, such as when to return freed memory. Does nothing without glibc."""
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, limit in limits.items():
            mallopt(MALLOPT[name], limit)


def return_freed() -> None:
    """Makes glibc return freed blocks over 4 MB, those of large photos, and keep up to 4 MB of smaller ones.

    By default it raises both limits after the first large photo and keeps that photo's memory.
    """
    tune_malloc(mmap_threshold=4 << 20, trim_threshold=4 << 20, arena_max=1)        # for all threads
