"""The tables of the model card: python -m tests.bench.card METRICS…

METRICS are metrics_CNN.json and metrics_FCNN.json, which `python -m scene.main` wrote with the models, or
evaluation_CNN.json of a test with --load-model. Prints Markdown: one row for each model, the most common
mistakes of the first, and for every class the recall and precision of each.
"""

import argparse
import json
import os
from pathlib import Path

from scene.answer import modelfile

MISTAKES = 12           # pairs of classes


def per_cent(share):
    return "–" if share is None else f"{100 * share:.0f} %"


def summary(report):
    """One row: the model, accuracies, calibration and the size of its file."""
    path = report["model"]["path"]
    network, card = modelfile.load(Path(path).read_bytes())
    low, high = (f"{100 * end:.1f}" for end in report["interval"])
    size = f"{os.path.getsize(path) / 1e6:.1f} MB"
    side = network.image_size
    name = f"{card['mode']}, {side}x{side}, {network.size:_} parameters".replace("_", " ")
    tops = " | ".join(f"{100 * report[key]:.1f} %" for key in ("accuracy", "top3", "top5"))
    return f"| {name} | {tops} | {low} to {high} | {size} |"


def mistakes(report):
    """The pairs of classes that are confused most often, both ways together: [(count, class, class)]."""
    matrix, names = report["confusion"], list(report["classes"])
    pairs = [(matrix[i][j] + matrix[j][i], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    return sorted(pairs, key=lambda pair: -pair[0])[:MISTAKES]


def classes(reports):
    """The rows of the table of classes."""
    for name in reports[0]["classes"]:
        rows = [report["classes"][name] for report in reports]
        cells = [per_cent(row[key]) for row in rows for key in ("recall", "precision")]
        yield f"| {name} | {' | '.join(cells)} |"


def main(options):
    reports = [json.loads(Path(path).read_text()) for path in options.metrics]
    print("| | top-1 | top-3 | top-5 | 95 % interval of top-1 | file |\n|---|---|---|---|---|---|")
    print("\n".join(map(summary, reports)))
    print("\n" + ", ".join(f"{one} and {other} ({count})" for count, other, one in mistakes(reports[0])))
    heads = " | ".join(f"{report['mode']}: recall | precision" for report in reports)
    print(f"\n| class | {heads} |\n{'|---' * (2 * len(reports) + 1)}|")
    print("\n".join(classes(reports)))


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.card", description=__doc__.split("\n")[2])
    parser.add_argument("metrics", metavar="METRICS", nargs="+", help="files of metrics")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
