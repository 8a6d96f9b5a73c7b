"""What is too long for the suite: python -m tests.bench.soak PART [--count N]

Each part repeats for long what a test does for a second, ends with an error at the first failure, and prints what was tried.
"""

import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz import DAMAGES
from tests.test_modelfile import is_refused, saved


def modelfiles(count):
    """Damaged and lying model files: each is refused, or says the same as the true one."""
    with tempfile.TemporaryDirectory() as folder:
        data = saved(Path(folder))
    outcomes, slowest, started, memory = Counter(), 0, time.perf_counter(), peak()
    for i in range(count):
        damage = DAMAGES[i % len(DAMAGES)]
        broken = damage(data, Random(i))
        start = time.perf_counter()
        outcomes[damage.__name__, is_refused(broken)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    for damage in DAMAGES:
        refused, same = (outcomes[damage.__name__, outcome] for outcome in (True, False))
        print(f"{damage.__name__:18} {refused:7} refused {same:7} that say the same")
    print(f"{count} model files in {time.perf_counter() - started:.0f} s: no crash, no changed weight, class or setting accepted; "
          f"the slowest took {1000 * slowest:.0f} ms, memory grew by {peak() - memory:.0f} MB")


def peak():
    """The most memory that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {"modelfiles": (modelfiles, 100_000)}       # what to do, and how often unless told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    work, usual = PARTS[options.part]
    work(options.count or usual)
