"""Asks the endpoint about each photo, with only the packages in the folders, for build.py.

    python3.13 -I -S -B trial.py MODELS PHOTOS FOLDER...

Prints JSON: the answers, the modules loaded from the folders, and the modules not found. The last could go
unnoticed: code may catch the ImportError and call a photo damaged, or not turn it upright.

Next: samples.py
"""

import base64
import json
import sys
from pathlib import Path


class Missing:
    """An import finder after all others, which is asked only for modules that they have not found."""

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
            request = {"mode": mode, "imageBase64": text, "map": path.name == "jpeg"}
            status, answer, _ = endpoint.answer(request, "trial", loaded.__getitem__)
            answers[f"{mode}: {path.name}"] = status, answer
    files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    modules = sorted(name for name, file in files.items() if file.startswith(folders) and name != "__main__")
    return {"answers": answers, "modules": modules, "missing": sorted(missing.names)}


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
