"""Accuracy and time from nothing: python -m tests.bench.accuracy TRAIN TEST --mode CNN --seeds 3

Runs `python -m scene.main --from-scratch` once per seed, on any two folders of photos, and prints mean ±
standard deviation of the accuracy and of the program's own total time.

With several --epochs it does so for each, and prints the time of the fastest that reached the --target. All
are whole trainings: the learning rate falls to 0, so one stopped half-way would look worse than it is.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

from scene.models import MODES


def train(options, epochs, seed):
    """One whole run of the main job: (accuracy, seconds)."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "scene.main", options.train, options.test, options.mode,
                   "--from-scratch", "--seed", str(seed), "--output", output]
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
    """Mean and standard deviation. The latter is 0 for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def main(options):
    reached = None
    for epochs in options.epochs:
        print(f"{options.mode}, {f'{epochs} epochs' if epochs else 'default epochs'}", flush=True)
        runs = [train(options, epochs, seed) for seed in range(options.seeds)]
        accuracies, seconds = zip(*runs, strict=True)
        mean, deviation = spread(accuracies)
        time, jitter = spread(seconds)
        print(f"  {mean:.1%} ± {deviation:.1%} in {time:.1f} ± {jitter:.1f} s, n = {options.seeds}",
              flush=True)
        if options.target and mean >= options.target and (reached is None or time < reached):
            reached = time
    if options.target:
        print(f"{options.target:.1%} {f'reached in {reached:.1f} s' if reached else 'not reached'}")


def parse():
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.accuracy", description="Measures accuracy and time of the main job.")
    add = parser.add_argument
    add("train", metavar="TRAIN")
    add("test", metavar="TEST")
    add("--mode", choices=list(MODES), default="CNN")
    add("--seeds", type=int, default=3, help="number of runs, with the seeds 0, 1, … (default: 3)")
    add("--epochs", type=int, nargs="+", default=[None], help="epochs to try (default: Scene's own choice)")
    add("--target", type=float, help="an accuracy, such as 0.773: print the shortest time that reaches it")
    options = parser.parse_args()
    if options.target and not 0 < options.target < 1:
        parser.error(f"--target {options.target:g} is not between 0 and 1: write 77.3 % as 0.773")
    return options


if __name__ == "__main__":
    main(parse())
