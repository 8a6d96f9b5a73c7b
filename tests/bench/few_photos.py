"""Accuracy with few photos: python -m tests.bench.few_photos TRAIN TEST TEACHER

Draws 10, 25, 50, … photos of each class of TRAIN, and trains on them in three ways: from nothing, a head on
the frozen features of TEACHER, and a head followed by fine-tuning. Each run is one `python -m scene.main`,
with the defaults otherwise. TEACHER must not have seen the classes.

Every result is a line of JSON in --results, and a run whose line is there is not repeated, so the measurement
can be stopped and continued. It prints the table, and --picture draws the curve.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from scene.learn.recipe import FINE_TUNING_EPOCHS

COUNTS = 10, 25, 50, 100, 300, 900
WAYS = {
    "nothing": ["--from-scratch"],
    "head": ["--head-only"],
    "fine-tuned": ["--epochs", str(FINE_TUNING_EPOCHS)],
}
NAMES = {"nothing": "from nothing", "head": "head only", "fine-tuned": "head, then fine-tuning"}
T_95 = {3: 4.303, 4: 3.182, 5: 2.776}       # Student's t for a two-sided interval of 95 %, by number of draws


def draw(train, folder, count, seed):
    """Links `count` photos of each class of TRAIN, drawn by the seed, into a new folder."""
    for source in sorted(path for path in Path(train).resolve().iterdir() if path.is_dir()):
        (folder / source.name).mkdir(parents=True)
        names = sorted(os.listdir(source))
        for name in random.Random(f"{seed} {source.name}").sample(names, min(count, len(names))):
            (folder / source.name / name).symlink_to(source / name)


def run(options, way, count, seed):
    """One run of the main job: its entry for the results."""
    with tempfile.TemporaryDirectory() as output:
        draw(options.train, Path(output, "train"), count, seed)
        start = WAYS[way] if way == "nothing" else ["--start-from", options.teacher, *WAYS[way]]
        command = [sys.executable, "-m", "scene.main", f"{output}/train", options.test, "CNN",
                   "--seed", str(seed), "--output", output, *start]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads(Path(output, "metrics_CNN.json").read_text())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"way": way, "count": count, "seed": seed, "accuracy": report["accuracy"],
            "seconds": report["seconds"], "cpu": round(cpu, 1), "epochs": len(report["history"])}


def measure(options):
    """Runs everything that has no result yet, the quick runs first."""
    path = Path(options.results)
    for count in options.counts:
        for way in options.ways:
            for seed in range(options.draws):
                done = {(entry["way"], entry["count"], entry["seed"]) for entry in read(path)}
                if (way, count, seed) in done:
                    continue
                entry = run(options, way, count, seed)
                print(json.dumps(entry), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")


def read(path):
    """The entries of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarize(entries):
    """{(way, count): (accuracies, CPU seconds)} of a list of entries, accuracies in per cent."""
    found = {}
    for entry in sorted(entries, key=lambda entry: entry["seed"]):
        accuracies, seconds = found.setdefault((entry["way"], entry["count"]), ([], []))
        accuracies.append(100 * entry["accuracy"])
        seconds.append(entry["cpu"])
    return found


def half_width(values):
    """Half the width of the 95 % interval of the mean, by Student's t."""
    return T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def table(found):
    """The results as a table in Markdown."""
    yield f"| photos per class | {' | '.join(NAMES.values())} | seconds, in this order |"
    yield "|---" * (len(NAMES) + 2) + "|"
    for count in sorted({count for _, count in found}):
        cells = []
        seconds = []
        for way in NAMES:
            values, times = found.get((way, count), ([], []))
            cells.append(cell(values))
            seconds.append(f"{statistics.mean(times):.0f}" if times else "–")
        yield f"| {count} | {' | '.join(cells)} | {' / '.join(seconds)} |"


def cell(values):
    """The mean and its interval, and the single values: "68.2 ± 1.4 (67.5, 68.4, 68.7)"."""
    if len(values) < 3:
        return ", ".join(f"{value:.1f}" for value in values) or "–"
    singles = ", ".join(f"{value:.1f}" for value in values)
    return f"{statistics.mean(values):.1f} ± {half_width(values):.1f} ({singles})"


COLOURS = {"nothing": "#b45309", "head": "#2563eb", "fine-tuned": "#15803d"}
LEFT, RIGHT, TOP, BOTTOM = 60, 500, 20, 300         # of the plot, in pixels


def picture(found):
    """The results as an SVG: accuracy over photos per class on a logarithmic axis, means with intervals."""
    counts = sorted({count for _, count in found})
    values = [value for accuracies, _ in found.values() for value in accuracies]
    low, high = 10 * (min(values) // 10), 10 * (max(values) // 10 + 1)
    gap = (RIGHT - LEFT - 40) / max(1, len(counts) - 1)
    across = {count: LEFT + 20 + gap * i for i, count in enumerate(counts)}

    def y(value):
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    yield ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 350" font-family="sans-serif" '
           'font-size="13" role="img" aria-label="Accuracy over photos per class">')
    yield '<rect width="680" height="350" fill="#fff"/>'
    for value in range(int(low), int(high) + 1, 10):
        yield f'<path d="M{LEFT} {y(value):.1f}H{RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value} %</text>'
    for count, x in across.items():
        yield f'<text x="{x:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{count}</text>'
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 40}" text-anchor="middle">photos per class</text>'
    for i, (way, colour) in enumerate(COLOURS.items()):
        points = [(across[count], *found[way, count][:1]) for count in counts if (way, count) in found]
        if not points:
            continue
        line = " ".join(f"{x:.1f},{y(statistics.mean(v)):.1f}" for x, v in points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, v in points:
            mean, half = statistics.mean(v), half_width(v) if len(v) > 2 else 0
            yield f'<path d="M{x:.1f} {y(mean - half):.1f}V{y(mean + half):.1f}" stroke="{colour}"/>'
            yield f'<circle cx="{x:.1f}" cy="{y(mean):.1f}" r="3.5" fill="{colour}"/>'
        yield (f'<text x="{RIGHT + 10}" y="{TOP + 20 + 22 * i}" fill="{colour}">{NAMES[way]}</text>')
    yield "</svg>"


def main(options):
    measure(options)
    found = summarize(read(Path(options.results)))
    print("\n".join(table(found)))
    if options.picture:
        Path(options.picture).write_text("\n".join(picture(found)) + "\n")


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.few_photos",
                                     description="Measures accuracy with few photos.")
    add = parser.add_argument
    add("train", metavar="TRAIN")
    add("test", metavar="TEST")
    add("teacher", metavar="TEACHER", help="a model file of other classes")
    add("--results", metavar="FILE", default="few_photos.jsonl",
        help="where results are added (default: %(default)s)")
    add("--draws", type=int, default=3, choices=T_95, help="photos are drawn so many times (default: 3)")
    add("--counts", type=int, nargs="+", default=COUNTS, help="photos of each class (default: 10 25 … 900)")
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    add("--picture", metavar="FILE", help="draw the curve into this SVG")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
