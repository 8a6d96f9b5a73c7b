"""Asks the endpoint, in this Python and with the given folders only, for the scene of every photo. build.py runs it in Python 3.13.

    python3.13 -I -S -B trial.py MODELS PHOTOS FOLDER...

Prints JSON: the answers; the modules that were loaded from the folders; and those that were looked for in vain. For many an
ImportError is caught somewhere, and all one sees is a photo called damaged, or one that was not turned upright.

Next: samples.py
"""

import base64
import json
import sys
from pathlib import Path


class Missing:
    """Stands behind all other finders of modules, so it is asked only for what none of them has."""

    def __init__(self):
        self.names = set()

    def find_spec(self, name, path=None, target=None):
        self.names.add(name)


def run(models, photos, *folders):
    missing = Missing()
    sys.meta_path.append(missing)
    sys.path[:0] = folders
    from scene import endpoint

    loaded = {path.name.removeprefix("model_"): endpoint.load_model(path.read_bytes()) for path in sorted(Path(models).iterdir())}
    answers = {}
    for path in sorted(Path(photos).iterdir()):
        text = base64.b64encode(path.read_bytes()).decode()
        for mode in loaded:
            request = {"mode": mode, "imageBase64": text}
            status, answer, _ = endpoint.answer(request, "trial", loaded.__getitem__)
            answers[f"{mode}: {path.name}"] = status, answer
    modules = sorted(name for name, module in sys.modules.items()
                     if (getattr(module, "__file__", None) or "").startswith(folders) and name != "__main__")
    return {"answers": answers, "modules": modules, "missing": sorted(missing.names)}


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
