"""What is in a folder besides photos that Scene reads, and what to do about it.

Next: folder.py
"""

import os
from collections import Counter
from collections.abc import Iterator

from scene.errors import printable

SUFFIXES = {                # of the photos that Scene reads, by format
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WebP": (".webp",),
}
FORMATS = {                 # pictures in formats that Scene does not read, by suffix
    "HEIC": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG XL": (".jxl",),
    "JPEG 2000": (".jp2", ".j2k", ".jpx"),
    "raw": (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
}
ADVICE = {"HEIC": " (iPhones take JPEG if their camera is set to Most Compatible)"}
SHOWN = 3                   # kinds of files
OTHER_KINDS = "hidden", "folder", "no suffix"       # what a Listing counts besides suffixes


def suffix_of(path: str) -> str:
    """The end of a file's name, in lower case: ".jpg"."""
    return os.path.splitext(path)[1].lower()


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 photo", "2 photos"."""
    return f"1 {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def in_words(passed_over: Counter) -> str:
    """What was passed over: "1 .mp4 file, 2 folders, 3 hidden files"."""
    nouns = {"folder": ("folder", ""), "link": ("link", ""),
             "no suffix": ("file without a suffix", "files without a suffix")}
    return ", ".join(count(number, *nouns.get(kind, (f"{printable(kind)} file", "")))
                     for kind, number in sorted(passed_over.items()))


def to_export(passed_over: Counter) -> Iterator[str]:
    """A sentence on the pictures of each format that were passed over."""
    for name, suffixes in FORMATS.items():
        if found := sum(passed_over[suffix] for suffix in suffixes):
            it = "it" if found == 1 else "them"
            yield f"passed over {count(found, f'{name} photo')}: export {it} as JPEG{ADVICE.get(name, '')}"


def no_photos(passed_over: Counter, folders: int) -> str:
    """What is wrong with a class without photos, by what is in its folder instead."""
    if folders:
        return f"no photos in it, but {count(folders, 'folder')}: move their photos up into it"
    missing = "no JPEG, PNG or WebP photos in it"
    files = Counter({kind: number for kind, number in passed_over.items() if kind not in OTHER_KINDS})
    if not files:
        return f"{missing}: add some, or move the folder elsewhere"
    kinds = [count(number, f"{kind} file") for kind, number in files.most_common(SHOWN)]
    known = any(files[suffix] for suffixes in FORMATS.values() for suffix in suffixes)
    advice = "export them as JPEG" if known else "add some, or move the folder elsewhere"
    return f"{missing}, but {', '.join(kinds)}: {advice}"
