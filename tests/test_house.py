"""The house: a module imports only from wings below its own, nothing imports in a circle, and installing
keeps it whole.
"""

import ast
import configparser
import os
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from scene.answer.classifier import PRETRAINED, Classifier
from scene.models import MODES
from scene.version import VERSION

ROOT = Path(__file__).parent.parent
WINGS = ["plumbing", "nn", "models", "photos", "answer", "learn", "show", "commands"]       # from below
PLUMBING = {"errors", "signals", "files", "locks", "memory", "processes", "chunked", "browsers", "version"}
COMMANDS = {"main", "options", "predict", "serve", "__init__"}


def modules():
    """{"scene.nn.conv": path} of everything in scene/."""
    def dotted(path):
        return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    return {dotted(path): path for path in sorted((ROOT / "scene").rglob("*.py"))}


def imported(path):
    """The modules of scene that a file imports, anywhere in it: inside of functions, too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that this test can follow them"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & MODULES.keys() or {node.module}
    return names & MODULES.keys()


def wing(module):
    """The place of a module's wing in WINGS."""
    name = (module.split(".") + ["__init__"])[1]
    name = "plumbing" if name in PLUMBING else "commands" if name in COMMANDS else name
    return WINGS.index(name)


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_a_wing_imports_only_from_those_below_it(module):
    above = [other for other in imported(MODULES[module]) if wing(other) > wing(module)]
    assert not above, f"{module} imports {above}, from a wing above its own"


def test_nothing_is_imported_in_a_circle():
    graph = {name: imported(path) - {name} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_every_wing_is_installed_and_every_folder_is_a_wing():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = {name.strip() for name in config["options"]["packages"].split(",")}
    assert packages == {name for name, path in MODULES.items() if path.name == "__init__.py"}


# Installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the contents of a built wheel, as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    subprocess.run(["git", "-C", ROOT, "diff", "HEAD", "--binary", "--output", folder / "change"], check=True)
    if (folder / "change").stat().st_size:          # also what is not committed yet
        subprocess.run(["git", "-C", source, "apply", folder / "change"], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([*command, source], check=True, capture_output=True)
    wheel, = folder.glob("*.whl")
    assert wheel.name == f"scene-{VERSION}-py3-none-any.whl"
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed, *arguments, cwd):
    """Runs Python on the wheel's contents, outside of the checkout."""
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_module_and_every_pretrained_model(installed):
    there = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {path.relative_to(ROOT).as_posix() for path in MODULES.values()} <= there
    page = {path for kind in ("html", "css", "js") for path in (ROOT / "scene").rglob(f"*.{kind}")}
    assert {path.relative_to(ROOT).as_posix() for path in page} <= there
    assert {f"scene/pretrained/model_{mode}" for mode, entry in MODES.items() if entry.pretrained} <= there
    assert not [name for name in there if name.startswith(("tests", "lambda", "cloudformation", "datasets"))]


def test_the_commands_run_from_the_wheel(installed, tmp_path):
    photo = ROOT / "datasets/test/ocean/ocean_000.jpg"
    where = run(installed, "-c", "import scene; print(scene.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(installed)), "these are the wheel's modules, not the checkout's"
    predicted = run(installed, "-m", "scene.predict", photo, cwd=tmp_path)
    assert (predicted.returncode, predicted.stderr) == (0, "")
    train, test = ROOT / "datasets/train", ROOT / "datasets/test"
    trained = run(installed, "-m", "scene.main", train, test, "FCNN", "--epochs", 1, cwd=tmp_path)
    assert (trained.returncode, trained.stderr) == (0, "") and (tmp_path / "model_FCNN").exists()
    served = run(installed, "-m", "scene.serve", "--port", 65536, cwd=tmp_path)
    assert served.returncode == 2 and "65536 is not from 0 to 65535" in served.stderr


def test_the_python_interface_is_lean_and_answers(installed, tmp_path):
    script = """
import sys
import scene
assert not {"numpy", "PIL", "torch"} & sys.modules.keys()
from scene import Classifier
assert "torch" not in sys.modules
classifier = Classifier.open(sys.argv[1])
answer = classifier.classify(open(sys.argv[2], "rb").read())
assert list(answer) == sorted(answer, key=answer.get, reverse=True) and set(answer) == set(classifier.classes)
print(next(iter(answer)), "torch" in sys.modules)
"""
    model = installed / "scene/pretrained/model_CNN"
    (tmp_path / "scene").mkdir()                    # a folder of this name is not in the way
    photo = ROOT / "datasets/test/ocean/ocean_000.jpg"
    result = run(installed, "-c", script, model, photo, cwd=tmp_path)
    expected = next(iter(Classifier.open(PRETRAINED["CNN"]).classify(photo.read_bytes())))
    assert result.stderr == "" and result.stdout.split() == [expected, "False"]


def test_an_unknown_name_of_the_package_is_an_error():
    import scene

    with pytest.raises(AttributeError, match="module 'scene' has no attribute 'Clasifier'"):
        scene.Clasifier  # noqa: B018
