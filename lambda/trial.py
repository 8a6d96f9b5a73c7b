"""Asks the endpoint about each photo, with no packages but the folders'. build.py runs it in Python 3.13.

    python3.13 -I -S -B trial.py MODELS PHOTOS FOLDER...

Prints JSON: the answers, the modules loaded from the folders, and the modules not found. These would go
unnoticed where some code catches the ImportError: a photo is called damaged, say, or is not turned upright.

Next: samples.py
"""

import base64
import json
import sys
from pathlib import Path


class Missing:
    """A finder behind all others: it is asked only for modules that none of them has found."""

    def __init__(self):
        self.names = set()

    def find_spec(self, name, path=None, target=None):
        self.names.add(name)


def run(models: str, photos: str, *folders: str) -> dict:
    """{"answers", "modules", "missing"}, as above."""
    missing = Missing()
    sys.meta_path.append(missing)
    sys.path[:0] = folders
    from scene.answer import endpoint
    from scene.answer.classifier import Classifier

    paths = sorted(Path(models).iterdir())
    loaded = {path.name.removeprefix("model_"): Classifier.open(path) for path in paths}
    answers = {}
    for path in sorted(Path(photos).iterdir()):
        text = base64.b64encode(path.read_bytes()).decode()
        for mode in loaded:
            request = {"mode": mode, "imageBase64": text}
            status, answer, _ = endpoint.answer(request, "trial", loaded.__getitem__)
            answers[f"{mode}: {path.name}"] = status, answer
    files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    modules = sorted(name for name, file in files.items() if file.startswith(folders) and name != "__main__")
    return {"answers": answers, "modules": modules, "missing": sorted(missing.names)}


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
