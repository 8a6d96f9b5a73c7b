"""scene/memory.py, and that the pixels of all photos are held once: a copy of them would not fit."""

import errno
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from scene import memory, processes
from tests.jobs import make_photos

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# How much there is


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function that sets the lines of /proc/self/cgroup, for groups below tmp_path."""
    def put(*lines):
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))

    monkeypatch.setattr(memory, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(memory, "OWN_GROUPS", str(tmp_path / "own"))
    return put


STAT = "anon 5\ninactive_file 30\nactive_file 7"


def test_the_limits_of_a_container_count_and_those_of_its_parents(groups, tmp_path):
    groups("0::/a/b")
    group(tmp_path / "a/b", memory__max="max", memory__current=100, memory__stat=STAT)
    group(tmp_path / "a", memory__max=1000, memory__current=400, memory__stat=STAT)
    assert list(memory.cgroups()) == [1000 - 400 + 30]
    group(tmp_path / "a/b", memory__max=300)
    assert list(memory.cgroups()) == [300 - 100 + 30, 1000 - 400 + 30]
    group(tmp_path / "a/b", memory__max=50)
    assert min(memory.cgroups()) == 0, "never negative"


def test_version_1_of_cgroups_counts_too(groups, tmp_path):
    groups("9:name=systemd:/", "4:memory:/in/docker", "2:cpu,cpuacct:/")
    stat = "inactive_file 1\ntotal_inactive_file 20"
    names = {"memory__usage_in_bytes": 100, "memory__stat": stat}
    # Inside a container its own group is at the root, and the path is that of the machine.
    group(tmp_path / "memory", memory__limit_in_bytes=500, **names)
    assert list(memory.cgroups()) == [500 - 100 + 20]
    group(tmp_path / "memory", memory__limit_in_bytes=9223372036854771712, **names)
    assert list(memory.cgroups()) == []


@pytest.mark.parametrize("line", ["0::/", "0::/gone", "4:memory:/gone", "1:a:b:c"])
def test_what_is_not_known_limits_nothing(line, groups, monkeypatch):
    groups(line)
    assert list(memory.cgroups()) == []
    monkeypatch.setattr(memory, "machine", lambda: iter(()))
    monkeypatch.setattr(memory, "address_space", lambda: iter(()))
    assert memory.available() == math.inf


@linux
def test_this_machine_has_some():
    assert 1e6 < memory.available() < 1e15


@pytest.mark.parametrize("number, text", [
    (12, "12 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_700, "1 MB"), (1_234_567, "1.23 MB"),
    (19.2e9, "19.2 GB"), (5e13, "50 TB"), (4e15, "4e+03 TB")])
def test_sizes_have_units(number, text):
    assert memory.size(number) == text


@pytest.mark.parametrize("error, sentence", [
    (MemoryError(), "Memory has run out."),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "Memory has run out."),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you "
                  "tried to "
                  "allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"),
     "Memory has run out: another 4 GB could not be had."),
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
     "Memory has run out: another 2.00 GiB could not be had."),
    (processes.WorkerError("a worker process failed: _ArrayMemoryError((90000,), dtype('uint8'))"),
     "Memory has run out."),
    (processes.WorkerError("a worker process failed: MemoryError()"), "Memory has run out."),
    (RuntimeError("could not create a primitive"), "Memory has run out."),
    (processes.WorkerError("a worker process failed: RuntimeError('could not create a memory object')"),
     "Memory has run out."),
    (RuntimeError("std::bad_alloc"), "Memory has run out."),
    (RuntimeError("could not create a primitive descriptor for the matmul primitive"), None),
    (RuntimeError("could not create a memory descriptor from blob"), None),
    (ValueError("out of memory"), None),
    (OSError(errno.ENOSPC, "No space left on device"), None),
    (RuntimeError("shapes do not match"), None),
])
def test_errors_that_say_that_memory_has_run_out(error, sentence):
    assert memory.is_exhausted(error) == bool(sentence)
    assert not sentence or memory.describe(error) == sentence


def test_numpys_own_error_is_known():
    with pytest.raises(MemoryError) as raised:
        np.empty(1 << 60, np.uint8)
    assert memory.is_exhausted(raised.value)
    assert memory.describe(raised.value) == "Memory has run out: another 1.00 EiB could not be had."


# The pixels of all photos are held once


PEAK = """
import re, sys
import numpy as np, torch
from scene.processes import shared_memory

def grows(work):
    '''How far the peak of memory rises above what is held now, as a share of the pixels.'''
    def read(name):
        return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
    work(pixels[:5])                    # so that imports and the first call's buffers do not count
    open("/proc/self/clear_refs", "w").write("5")
    before = read("VmRSS")
    work(pixels)
    return (read("VmHWM") - before) / pixels.nbytes

pixels = shared_memory((20000, 64, 64, 3), np.uint8)
pixels[:] = np.arange(64, dtype=np.uint8)[:, None]
labels = np.arange(len(pixels)) // 10000
"""
WORK = {
    "fit": """
from scene.nn.normalize import Normalize
layer = Normalize()
layer.mean = layer.std = torch.zeros(3)
print(grows(lambda pixels: layer.fit(torch.from_numpy(pixels))))
""",
    "describe": """
from scene.learn import checkpoint, recipe
from scene.models import FCNN, MODES
from scene.photos.folder import Photos
settings = recipe.Settings(**recipe.defaults(MODES["FCNN"], 100))
network = FCNN(2, 8)
def describe(pixels):
    photos = Photos(pixels, labels[:len(pixels)], [], ["a", "b"])
    checkpoint.describe("FCNN", network, photos, settings)
print(grows(describe))
""",
    "choose": """
from scene.photos.pixels import Rows
def choose(pixels):
    rows = Rows(Rows(pixels, slice(None, None, -1)), slice(1, None)).to_torch()
    rows.index_select(0, torch.arange(4))
print(grows(choose))
""",
}


@linux
@pytest.mark.parametrize("name", WORK)
def test_nothing_copies_all_pixels(name):
    result = subprocess.run([sys.executable, "-c", PEAK + WORK[name]], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.1, f"another {float(result.stdout):.0%} of the pixels"


@linux
def test_a_copy_of_all_pixels_would_be_noticed():
    """The test of the test."""
    code = PEAK + "print(grows(lambda pixels: pixels.copy()))"
    assert float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) > 0.9


# When it runs out


def limited(kind, limit, *arguments, cwd):
    """The main job under a limit of `ulimit`."""
    command = [sys.executable, "-m", "scene.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True,
                          preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)))


@pytest.fixture
def many(tmp_path):
    for name in ("train", "test"):
        for kind in "ab":
            (tmp_path / name / kind).mkdir(parents=True)
            for i in range(250):
                pixel = (i, ord(kind), len(name))
                Image.new("RGB", (8, 8), pixel).save(tmp_path / name / kind / f"{i}.png")
    return tmp_path


@linux
def test_too_many_photos_for_the_memory_are_refused_before_they_are_decoded(many):
    (many / "train/a/0.png").write_bytes(b"")               # decoding would report it
    command = ["train", "test", "CNN", "--no-cache", "--image-size"]
    result = limited(resource.RLIMIT_AS, 600 << 20, *command, 512, cwd=many)
    assert result.returncode == 2 and result.stdout.count("\n") == 2
    assert result.stderr.startswith("1000 photos of 512x512 pixels need 786 MB of memory, but only ")
    words, _, advice = result.stderr.partition(" MB are free. ")
    largest = math.isqrt(int(0.8e6 * float(words.split()[-1])) // 3000)
    assert abs(int(re.search(r"\d+", advice)[0]) - largest) <= 1
    assert re.sub(r"\d+", "N", advice) == "Choose a smaller --image-size, at most N, or use fewer photos.\n"
    result = limited(resource.RLIMIT_AS, 600 << 20, *command, 64, cwd=many)
    assert "train/a/0.png: the file is empty." in result.stderr, "now they are decoded"


def test_photos_that_fit_into_neither_memory_nor_cache_are_refused(tmp_path, monkeypatch):
    from scene.errors import UserError
    from scene.photos import folder, sets
    from scene.photos.cache import Cache

    (tmp_path / "cache/scene").mkdir(parents=True)
    cache = Cache(str(tmp_path / "cache"))
    listing = folder.Listing("train", {"a": ["photo"] * 1000})
    monkeypatch.setattr(memory, "available", lambda: 5e6)
    sets.check_memory([listing], 80, "Do{}.", cache)            # the cache has room
    cache.limit = 1e6
    with pytest.raises(UserError) as raised:
        sets.check_memory([listing], 80, "Do{}.", cache)
    assert re.sub(r"; [\d.]+ .B are free", "; N are free", str(raised.value)) == (
        "1000 photos of 80x80 pixels need 19.2 MB of memory, but only 5 MB are free and the cache has no "
        "room (at most 1 MB: --cache-size; N are free on its disk). Do, at most 36.")


@linux
@pytest.mark.parametrize("megabytes", [200, 285, 345, 400])
def test_memory_that_runs_out_in_training_is_a_sentence_with_advice(megabytes, tmp_path):
    """In the first large array, in a matrix product of oneDNN, or late in the backward pass."""
    for name in ("train", "test"):
        make_photos(tmp_path / name, count=100)
    options = ["train", "test", "CNN", "--image-size", 256, "--batch-size", 200, "--epochs", 1]
    result = limited(resource.RLIMIT_DATA, megabytes << 20, *options, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Memory has run out")
    assert result.stderr.endswith("A new run in another --output needs less memory with a smaller "
                                  "--batch-size or "
                                  "--image-size.\n")


@linux
def test_memory_that_runs_out_while_decoding_is_a_sentence(tmp_path):
    make_photos(tmp_path / "train")
    make_photos(tmp_path / "test")
    Image.new("RGB", (7000, 7000)).save(tmp_path / "train/dark/large.png")
    result = limited(resource.RLIMIT_AS, 300 << 20, "train", "test", "FCNN", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("Memory has run out")
    assert result.stderr.endswith(" Close other programs, or choose a smaller --image-size.\n")


def test_recalibration_has_no_more_processes_than_training(monkeypatch):
    """On 64 cores it was the peak of memory: 32 processes, where training had 2."""
    import torch

    from scene.learn import recalibrate
    from scene.models import CNN

    asked = []

    def run(work, items, most):
        asked.append((len(items), most))
        return [work(i) for i in items]

    monkeypatch.setattr(recalibrate, "parallel_map", run)
    network = CNN(2, 16).start(torch.Generator().manual_seed(0))
    recalibrate.recalibrate(network, torch.zeros((96, 16, 16, 3), dtype=torch.uint8), 2)
    assert asked == [(3, 2)]
    monkeypatch.setattr(recalibrate, "BATCH_PIXELS", 16 * 16 * 8)
    recalibrate.recalibrate(network, torch.zeros((96, 16, 16, 3), dtype=torch.uint8), 3)
    assert asked[1] == (12, 3), "large photos come in smaller batches"


@linux
def test_at_most_as_many_processes_as_are_wanted(monkeypatch):
    monkeypatch.setattr(processes, "cores", lambda: 8)
    for most in (1, 2, 3):
        pids = set(processes.parallel_map(lambda i: os.getpid(), range(40), most=most))
        assert len(pids) == most


def test_thousands_of_classes_make_a_report_of_moderate_size(tmp_path):
    """A line of JSON for each entry. One for each of nine million numbers took gigabytes."""
    from scene import main

    n = 400
    confusion = np.zeros((n, n), int).tolist()
    options = main.parse(["train", "test", "FCNN"])
    main.write_report(tmp_path / "report", {"confusion": confusion}, options, 0)
    text = (tmp_path / "report").read_text()
    assert json.loads(text)["confusion"] == confusion and text.count("\n") < 10


# When it is returned


KEPT = """
import sys
from scene.memory import return_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "tuned":
    return_freed()
large = bytearray(20_000_000)       # after the first such block, glibc raises its limits
del large
large = bytearray(20_000_000)
small = [bytes(1000) for _ in range(1000)]
before = resident()
del large
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_a_large_photo_took_is_given_back():
    freed = [int(subprocess.check_output([sys.executable, "-c", KEPT, how])) for how in ("tuned", "as it is")]
    assert freed[0] > 19_000_000 > freed[1]
