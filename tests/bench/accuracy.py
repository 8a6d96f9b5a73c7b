"""How accurate the defaults are, and how long they take: python -m tests.bench.accuracy TRAIN TEST --mode CNN --seeds 3

Runs `python -m scene.main` as people do, once for every seed, on any two folders of photos, and prints mean ± standard deviation
of accuracy and of the program's own total time. With several --epochs it does so for each, and says in which time a --target
was reached: by a whole training of so many epochs, since a learning rate that falls to 0 makes one stopped half-way look worse than it is.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile


def train(options, epochs, seed):
    """One whole run of the main job: (accuracy, seconds)."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "scene.main", options.train, options.test, options.mode, "--seed", str(seed), "--output", output]
        if epochs:
            command += ["--epochs", str(epochs)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr}")
        with open(f"{output}/metrics_{options.mode}.json") as file:
            report = json.load(file)
    print(f"  seed {seed}: {report['accuracy']:.1%} in {report['seconds']:.1f} s", flush=True)
    return report["accuracy"], report["seconds"]


def spread(values):
    """Mean and standard deviation; the latter is 0 for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main(options):
    reached = None
    for epochs in options.epochs:
        print(f"{options.mode}, {f'{epochs} epochs' if epochs else 'default epochs'}", flush=True)
        accuracies, seconds = zip(*(train(options, epochs, seed) for seed in range(options.seeds)), strict=True)
        (mean, deviation), (time, jitter) = spread(accuracies), spread(seconds)
        print(f"  {mean:.1%} ± {deviation:.1%} in {time:.1f} ± {jitter:.1f} s, n = {options.seeds}", flush=True)
        if options.target and mean >= options.target and (reached is None or time < reached):
            reached = time
    if options.target:
        print(f"{options.target:.1%} reached in {reached:.1f} s" if reached else f"{options.target:.1%} not reached")


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.accuracy", description="How accurate the main job is, and how fast.")
    parser.add_argument("train", metavar="TRAIN")
    parser.add_argument("test", metavar="TEST")
    parser.add_argument("--mode", choices=["FCNN", "CNN"], default="CNN")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs, with the seeds 0, 1, … (default: 3)")
    parser.add_argument("--epochs", type=int, nargs="+", default=[None], help="epochs to try (default: Scene's own choice)")
    parser.add_argument("--target", type=float, help="an accuracy, such as 0.773: print how soon it is reached")
    options = parser.parse_args()
    if options.target and not 0 < options.target < 1:
        parser.error(f"--target {options.target:g} is no share: 77.3 % is 0.773")
    return options


if __name__ == "__main__":
    main(parse())
