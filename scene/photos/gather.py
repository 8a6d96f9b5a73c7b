"""The arguments of a command -> the photos that they name: files, folders and patterns.

Next: journal.py
"""

import functools
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence

from scene.photos.hints import FORMATS, SUFFIXES, suffix_of

# All are tried, so that a picture in a format that Scene does not read is listed with the reason.
PICTURES = {suffix for suffixes in [*SUFFIXES.values(), *FORMATS.values()] for suffix in suffixes}


class Inputs:
    """What the arguments of a command name.

    folders      those that were named, in order; a link to a folder counts, since somebody named it
    files        those that were named: each is taken for a photo, whatever its suffix
    problems     (path, what is wrong with it), also of `photos`
    empty        the named folders in which `photos` found none
    passed_over  counts what `photos` left out in folders, by suffix or as "hidden", "link", "no suffix"
    """

    def __init__(self, arguments: Sequence[str]):
        self.named: list[str] = []
        self.problems: list[tuple[str, str]] = []
        self.empty: list[str] = []
        self.passed_over: Counter = Counter()
        for argument in arguments:
            found = expand(argument)
            self.named += found
            if not found:
                self.problems.append((argument, "no file or folder matches this pattern"))
        self.folders = [path for path in self.named if os.path.isdir(path)]
        self.files = [path for path in self.named if not os.path.isdir(path)]

    @property
    def roots(self) -> list[str]:
        """The real paths of the folders, and of those that the named files lie in."""
        folders = self.folders + [os.path.dirname(path) for path in self.files]
        return sorted({os.path.realpath(folder) for folder in folders})

    def photos(self) -> list[str]:
        """The paths of all photos: folders recursively, in the order of names. No photo comes twice."""
        real = functools.cache(os.path.realpath)
        paths = {}
        for named in self.named:
            for path in self.search(named):
                folder, name = os.path.split(path)
                paths.setdefault(os.path.join(real(folder), name), path)
        return list(paths.values())

    def search(self, named: str) -> list[str]:
        """The photos in a folder, or a file that was named."""
        if not os.path.isdir(named):
            return [named]
        found = list(self.walk(named))
        if not found and named not in dict(self.problems):
            self.empty.append(named)
        return found

    def walk(self, folder: str) -> Iterator[str]:
        """The pictures in a folder and its subfolders. Links in it are not followed."""
        waiting = self.entries(folder)
        while waiting:
            entry = waiting.pop()
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                self.passed_over["hidden"] += 1
            elif entry.is_symlink():
                self.passed_over["link"] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting += self.entries(entry.path)
            elif suffix_of(entry.name) in PICTURES:
                yield entry.path
            else:
                self.passed_over[suffix_of(entry.name) or "no suffix"] += 1

    def entries(self, folder):
        """A folder's entries, the first name last, so that `pop` takes them in the order of names."""
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            self.problems.append((folder, f"cannot be read: {error.strerror}"))
            return []


def expand(argument: str) -> list[str]:
    """The paths that an argument names: itself or, where the shell left a pattern alone, its matches."""
    if os.path.lexists(argument) or not set(argument) & set("*?["):
        return [argument]
    return sorted(glob.glob(argument, recursive=True))
