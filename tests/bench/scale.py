"""Many photos, processes and machines: python -m tests.bench.scale photos|size|machines|collective

    photos FOLDER N     makes N cheap photos of 80x80 pixels in FOLDER/train, and a tenth in FOLDER/test
    size FOLDER N …     decodes so many, trains a CNN for an epoch, tests it, and does it all again, cached:
                        seconds by stage, and the memory that cannot be taken back, RssAnon + RssShmem
    machines FOLDER     photos a second in training, from the second epoch on, with one process, two, and two
                        "machines": network namespaces, as root
    collective          the two collectives of a step between these, for 0.4 and 3 million parameters, by link

Results are added to --results as lines of JSON, and --picture draws those of `size`.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from scene.learn.cluster import Together
from scene.models import CNN
from scene.processes import parallel_map
from tests import machine

CLASSES = 10
SIDE = 80
STAGES = {"load": "Settings: ", "train": "epoch 1/1", "test": "Model: "}        # each ends with such a line
EPOCHS = 3                  # of `machines`: the first also waits for pages of the cache, and for fresh memory
ROUNDS = 3
STEADY = {"first": f"epoch 1/{EPOCHS}", "others": f"epoch {EPOCHS}/{EPOCHS}"}
HOSTS = {"scene-a": "10.23.0.1", "scene-b": "10.23.0.2"}        # the namespaces, and their addresses
RATES = "1gbit", "10gbit"


# Photos


def make_photos(folder, count, seed):
    """Photos that differ, and whose classes can be learned: coloured noise."""
    def make(i):
        random = np.random.default_rng([seed, i])
        place = folder / f"{i % CLASSES:02}" / f"{i // CLASSES // 1000:03}_{i // CLASSES:07}.jpg"
        if not place.exists():
            colour = 12 * (i % CLASSES) * np.array([1, 0, -1]) % 128
            coarse = random.integers(128, size=(6, 6, 3)) + colour
            image = Image.fromarray(coarse.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            image.save(place, quality=60)

    for k in range(CLASSES):
        (folder / f"{k:02}").mkdir(parents=True, exist_ok=True)
    for _ in parallel_map(make, range(count), 100):
        pass


def photos(options):
    make_photos(Path(options.folder, "train"), options.counts[0], 0)
    make_photos(Path(options.folder, "test"), max(100, options.counts[0] // 10), 1)


# Time and memory by number of photos


def memory_of(pid):
    """RssAnon + RssShmem of a process and its descendants, in bytes, as the system counts them for each."""
    total = 0
    with contextlib.suppress(OSError, ValueError, KeyError):       # it has ended
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        total = sum(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(map(memory_of, (task / "children").read_text().split()))
    return total


def timed(command, cwd, ends=STAGES):
    """Runs a command: the seconds and the largest memory of each stage, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = Path(cwd, "log")
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT)
    entry = {}
    begun, most = time.perf_counter(), 0
    stages = list(ends)
    while process.poll() is None or stages:
        most = max(most, memory_of(process.pid))
        if stages and f"\n{ends[stages[0]]}" in "\n" + log.read_text():
            now = time.perf_counter()
            entry |= {stages[0]: round(now - begun, 2), f"{stages.pop(0)}_memory": most}
            begun, most = now, 0
        elif process.poll() not in (None, 0):
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()}")
        time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return entry | {"cpu": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)}


def scene(train, test, *more, epochs=1):
    options = "--epochs", epochs, "--from-scratch", *more
    return [sys.executable, "-m", "scene.main", train, test, "CNN", *map(str, options)]


def draw_some(source, count, folder):
    """Links to the first `count` photos."""
    for k in range(CLASSES):
        (folder / f"{k:02}").mkdir(parents=True)
        for path in sorted((source / f"{k:02}").iterdir())[:count // CLASSES]:
            os.link(path, folder / f"{k:02}" / path.name)


def size(options):
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            draw_some(Path(options.folder, "train"), count, Path(folder, "train"))
            draw_some(Path(options.folder, "test"), max(100, count // 10), Path(folder, "test"))
            for again in False, True:
                words = ["--cache", "cache", "--cache-size", 100, "--output", f"out{again}"]
                command = scene("train", "test", *words)
                note(options, {"what": "size", "photos": count, "cached": again, **timed(command, folder)})


# Machines


@contextlib.contextmanager
def namespaces(rate):
    """Two network namespaces with a link of this rate between them. Needs root."""
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "link0", "netns", "scene-a", "type", "veth",
           "peer", "name", "link0", "netns", "scene-b")
        for name, address in HOSTS.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "link0")
            for device in "lo", "link0":
                ip("-n", name, "link", "set", device, "up")
            ip("netns", "exec", name, "tc", "qdisc", "add", "dev", "link0", "root", "tbf", "rate", rate,
               "burst", "4mb", "latency", "50ms")
        yield
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False)


def on_machine(number, command):
    """A command under torchrun, in a namespace."""
    name, address = list(HOSTS.items())[number]
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number),
                "--nproc-per-node", "1", "--master-addr", HOSTS["scene-a"], "--master-port", "29523"]
    return ["ip", "netns", "exec", name, "env", "GLOO_SOCKET_IFNAME=link0", "OMP_NUM_THREADS=1",
            command[0], *launcher, *command[1:]]


def machines(options):
    """The epochs after the first, from the cache: on one core, on two, and on two machines of one core.

    In turn, several times, since a shared machine is not equally fast for long.
    """
    train, test = (str(Path(options.folder, name)) for name in ("train", "test"))
    count = sum(1 for _ in Path(train).glob("*/*"))
    rates = {}

    def measure(how, way, folder):
        entry = timed(way, folder, STEADY)
        rates.setdefault(how, []).append((EPOCHS - 1) * count / entry["others"])
        note(options, {"what": "machines", "how": how, **entry})

    with tempfile.TemporaryDirectory() as folder:
        words = ["--cache", folder, "--precision", "float32", "--no-report", "--output", f"{folder}/out"]
        command = scene(train, test, *words, epochs=EPOCHS)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        timed(scene(train, test, *words), folder)       # fills the cache
        for _ in range(ROUNDS):
            measure("1 process", ["taskset", "-c", "0", *command], folder)
            measure("2 processes", command, folder)
            measure("2 processes of torchrun", [command[0], *launcher, *command[1:]], folder)
            for rate in RATES:
                with namespaces(rate):
                    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                    other = subprocess.Popen(on_machine(1, command), **silent)
                    measure(f"2 machines, {rate}", on_machine(0, command), folder)
                    other.wait()
    for how, several in rates.items():
        linear = [rate / alone / (1 + (how != "1 process"))
                  for rate, alone in zip(several, rates["1 process"], strict=True)]
        note(options, {"what": "machines", "how": how, "photos a second": round(np.median(several)),
                       "of linear": round(np.median(linear), 3), "rounds": ROUNDS})


# The collectives


def exchange():
    """In a process of torchrun: the seconds of a step in which nothing is computed, for two networks."""
    import torch

    from scene.learn.peers import Peers

    with Peers() as peers:
        for widths in (32, 48, 128), (96, 144, 340):
            network = CNN(10, widths=widths).start(torch.Generator())
            team = Together(network, lambda *arguments: (0.0, 0.0), 2, peers, 128)
            if peers.rank:
                team.serve()
                continue
            times = []
            with team:
                for _ in range(12):
                    begun = time.perf_counter()
                    team.step(0, torch.arange(128), torch.zeros(2, dtype=torch.int64))
                    times.append(time.perf_counter() - begun)
            print(json.dumps({"parameters": network.size, "bytes": team.message.nbytes + team.mine().nbytes,
                              "ms": round(1000 * sorted(times)[6], 1)}), flush=True)


def collective(options):
    code = [sys.executable, "-m", "tests.bench.scale", "exchange"]
    for rate in RATES:
        with namespaces(rate), tempfile.TemporaryFile("w+") as file:
            processes = [subprocess.Popen(on_machine(number, code), stdout=file, stderr=subprocess.DEVNULL)
                         for number in (0, 1)]
            for process in processes:
                process.wait()
            file.seek(0)
            for line in file:
                note(options, {"what": "collective", "rate": rate, **json.loads(line)})


# Results


def note(options, entry):
    print(json.dumps(entry), flush=True)
    with open(options.results, "a") as file:
        file.write(json.dumps(entry) + "\n")


COLOURS = {"load": "#b45309", "train": "#15803d", "test": "#2563eb"}
NAMES = {"load": "decoding, copies", "train": "an epoch", "test": "test, report"}
LEFT, RIGHT, TOP, BOTTOM = 60, 470, 20, 300         # of the plot, in pixels


def picture(entries):
    """Microseconds a photo over the number of photos, both logarithmic: flat lines are linear time."""
    entries = [entry for entry in entries if entry["what"] == "size" and not entry["cached"]]
    counts = sorted({entry["photos"] for entry in entries})

    def x(count):
        span = max(1, np.log(counts[-1] / counts[0]))
        return LEFT + 20 + (RIGHT - LEFT - 40) * np.log(count / counts[0]) / span

    def y(seconds):
        return BOTTOM - (BOTTOM - TOP) * np.log10(seconds / 1e-5) / 3

    yield ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 350" font-family="sans-serif" '
           'font-size="13" role="img" aria-label="Time a photo over the number of photos">')
    yield '<rect width="640" height="350" fill="#fff"/>'
    for seconds, text in (1e-5, "10 µs"), (1e-4, "0.1 ms"), (1e-3, "1 ms"), (1e-2, "10 ms"):
        yield f'<path d="M{LEFT} {y(seconds):.1f}H{RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y(seconds) + 4:.1f}" text-anchor="end">{text}</text>'
    for count in counts:
        yield f'<text x="{x(count):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{count}</text>'
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 40}" text-anchor="middle">photos</text>'
    for i, (stage, colour) in enumerate(COLOURS.items()):
        points = {entry["photos"]: entry[stage] / entry["photos"] for entry in entries}
        line = " ".join(f"{x(count):.1f},{y(points[count]):.1f}" for count in counts)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for count in counts:
            yield f'<circle cx="{x(count):.1f}" cy="{y(points[count]):.1f}" r="3.5" fill="{colour}"/>'
        yield f'<text x="{RIGHT + 10}" y="{TOP + 20 + 22 * i}" fill="{colour}">{NAMES[stage]}</text>'
    yield "</svg>"


def main(options):
    if options.what == "exchange":
        exchange()
        return
    print(machine.describe())
    {"photos": photos, "size": size, "machines": machines, "collective": collective}[options.what](options)
    if options.picture:
        entries = [json.loads(line) for line in Path(options.results).read_text().splitlines()]
        Path(options.picture).write_text("\n".join(picture(entries)) + "\n")


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale",
                                     description="Measures how Scene grows.")
    add = parser.add_argument
    add("what", choices=["photos", "size", "machines", "collective", "exchange"])
    add("folder", nargs="?", metavar="FOLDER", help="with train and test, made by `photos`")
    add("counts", nargs="*", type=int, metavar="N", help="photos to train on")
    add("--results", metavar="FILE", default="scale.jsonl",
        help="where results are added (default: %(default)s)")
    add("--picture", metavar="FILE", help="draw the results of `size` into this SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
