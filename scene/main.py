"""Train a network on folders of photos, test it, save it.

    python -m scene.main TRAIN TEST {FCNN,CNN}

`run` is the whole story; what stands around it reads the command and prints.
"""

import argparse
import json
import os
import sys
import time

from scene import folder, modelfile
from scene.folder import printable


def run(options):
    """Photos in; a model, its metrics and a report out."""
    started = time.monotonic()
    print(f"Scene: {options.mode} on {'photos of' if options.load_model else 'photos of'} {printable(options.test)}", flush=True)
    listings = [folder.scan(path) for path in (options.train, options.test)]
    for warning in folder.check(*listings):
        print(f"Warning: {warning}")
    import torch

    from scene import metrics
    from scene.models import MODES
    from scene.predict import Classifier
    from scene.train import Settings, train
    train_photos, test_photos = folder.load(listings, listings[0].classes, options.image_size)
    settings = Settings(options.epochs)
    network = MODES[options.mode](len(train_photos.classes), options.image_size)
    train(network, torch.from_numpy(train_photos.pixels), torch.from_numpy(train_photos.labels), settings,
          torch.Generator(options.device).manual_seed(settings.seed))
    card = {"mode": options.mode, "classes": train_photos.classes, "architecture": {"image_size": options.image_size},
            "fit": modelfile.FIT, "mirror": True}
    modelfile.save(os.path.join(options.output, f"model_{options.mode}"), network, card)
    report = metrics.evaluate(test_photos.labels, Classifier(network, card).probabilities(test_photos.pixels), card["classes"])
    print(json.dumps(report, indent=1))
    print(f"{time.monotonic() - started:.1f} s")


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("mode", type=str.upper, choices=["FCNN", "CNN"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--output", default=".")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--load-model")
    run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
