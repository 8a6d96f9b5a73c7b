"""How many near-copies are found, how many pairs are false, and how long it takes.

    python -m tests.bench.duplicates FOLDER [--size 80] [--copies 1000]

FOLDER holds photos, at any depth. Of some, changed copies are made, one kind after another, and sought among
all photos. Pairs among the photos themselves are listed: look at them, for most are real.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scene.photos import decode
from scene.photos.duplicates import find_groups, shrink
from scene.photos.folder import SUFFIXES, suffix_of
from scene.processes import parallel_map
from tests.test_duplicates import CHANGES


def main(arguments=None):
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--copies", type=int, default=1000)
    options = parser.parse_args(arguments)
    known = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]
    paths = sorted(path for path in options.folder.rglob("*") if suffix_of(path) in known)
    pictures = np.array(list(parallel_map(lambda path: picture(path.read_bytes(), options.size), paths, 100)))
    groups = report("photos", pictures)
    for i in np.flatnonzero(groups != np.arange(len(paths))):
        print(f"    {paths[groups[i]]} {paths[i]}")
    chosen = np.sort(np.random.default_rng(1).permutation(len(paths))[:options.copies])
    for name, change in CHANGES.items():
        def changed(i, change=change):
            return picture(change(Image.open(paths[i]).convert("RGB")), options.size)

        copies = np.array(list(parallel_map(changed, chosen, 50)))
        found = report(name, np.concatenate([pictures, copies]))[len(paths):] == groups[chosen]
        print(f"    found {found.mean():.1%} of {len(chosen)}", flush=True)


def picture(data, size):
    return shrink(decode.decode(data, size))


def report(name, pictures):
    """Prints the CPU seconds that the search takes, and returns the groups."""
    begun = time.process_time()
    groups = find_groups(list(range(len(pictures))), pictures)
    print(f"{name}: {len(pictures)} pictures, {time.process_time() - begun:.1f} s of CPU", flush=True)
    return groups


if __name__ == "__main__":
    sys.exit(main())
