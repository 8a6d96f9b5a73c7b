"""The documentation is true: its trees and tables are the folders, its links lead somewhere, its code and
commands run.
"""

import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from scene import models
from scene.learn.loop import train
from scene.learn.recipe import Settings, defaults
from scene.models import Mode
from scene.nn import activation
from tests import oracle
from tests.jobs import photos
from tests.mutate import copy_checkout
from tests.strategies import images, seeds

ROOT = Path(__file__).parent.parent
LEFT_OUT = {".venv", "build", ".pytest_cache"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not LEFT_OUT & set(path.parts))
TUTORIAL = ROOT / "scene/README.md"
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page):
    return page.read_text(encoding="utf-8")


def block(page, containing):
    """The Python block of a page that contains these words, without its indentation."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text(page), re.MULTILINE | re.DOTALL)
    found = [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, code in blocks]
    return next(code for code in found if containing in code)


# Structure


def test_the_readme_is_short():
    assert len(text(ROOT / "README.md").splitlines()) <= 130
    assert len(text(ROOT / "README.md").split()) <= 1500


def anchors(page):
    """The anchors that a page's headings make, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} is not there"
        if anchor:
            place = place / "README.md" if place.is_dir() else place
            assert anchor in anchors(place), f"{target}: there is no such heading"


def test_the_pictures_are_small():
    for page in PAGES:
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text(page)):
            assert (page.parent / name).stat().st_size < 100_000


def test_the_tree_of_the_readme_names_the_folders():
    page = text(ROOT / "README.md")
    tree = page[page.index("```\nscene/"):]
    tree = tree[:tree.index("```", 3)]
    top = set(re.findall(r"^(\w+)/ ", tree, re.MULTILINE))
    inside = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert top == {path.parts[0] for path in tracked(".") if len(path.parts) > 1} - {".ci", ".github"}
    assert inside == {path.parts[0] for path in tracked("scene") if len(path.parts) > 1}


def tracked(folder):
    """The files in a folder that git tracks, relative to it."""
    found = subprocess.run(["git", "ls-files"], cwd=ROOT / folder, capture_output=True, text=True, check=True)
    return list(map(Path, found.stdout.splitlines()))


@pytest.mark.parametrize("room", ["scene/photos", "scene/answer", "scene/learn", "lambda", "cloudformation"])
def test_a_rooms_readme_names_its_modules_and_no_others(room):
    named = set(re.findall(r"(?:^\| |^  |, )`?(\w+\.py)`?", text(ROOT / room / "README.md"), re.MULTILINE))
    there = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
    assert named == there


def test_every_room_has_a_readme_and_the_next_one_is_named():
    rooms = "scene", "scene/nn", "scene/photos", "scene/answer", "scene/learn", "lambda", "cloudformation"
    for room in rooms:
        assert "\nNext: " in text(ROOT / room / "README.md"), room


def test_the_files_of_the_tutorial_are_all_there_are():
    """Every module of scene/ can be found from scene/README.md: there, or in the table of its wing."""
    found = set()
    for page in [TUTORIAL, *(ROOT / "scene").glob("*/README.md")]:
        found |= set(re.findall(r"(\w+\.py)", text(page)))
    modules = {path.name for path in (ROOT / "scene").rglob("*.py")} - {"__init__.py"}
    assert modules - found <= {"main.py", "predict.py", "serve.py"}, "the commands are in the README"


def test_each_file_names_the_next_one_and_the_chain_goes_through_all():
    """The reading order: every module's docstring ends in "Next: file"."""
    place = ROOT / "scene/learn/bare.py"
    seen = []
    while place not in seen:
        seen.append(place)
        following = re.search(r"^Next: ([\w./]+\.py)", text(place), re.MULTILINE)
        if following is None:
            break
        place = (place.parent / following[1]).resolve()
        assert place.exists(), f"{seen[-1]} names {following[1]}"
    left = {path.relative_to(ROOT) for path in (ROOT / "scene").rglob("*.py") if path not in seen}
    left = {path for path in left if path.name not in ("__init__.py", "version.py")}
    assert not left, f"no file leads to {sorted(map(str, left))}"


# Code


def test_the_example_of_the_python_interface_runs(monkeypatch, tmp_path):
    code = block(ROOT / "README.md", "Classifier.open")
    code = code.replace("datasets/model_CNN", "scene/pretrained/model_CNN")
    monkeypatch.chdir(ROOT)
    names = {}
    exec(code, names)
    assert abs(sum(names["answer"].values()) - 1) < 1e-5


def test_the_loop_shown_is_the_loop():
    shown = textwrap.indent(block(TUTORIAL, "for epoch in range"), "    ")
    assert shown in text(ROOT / "scene/learn/bare.py")


def test_the_bare_loop_learns():
    command = [sys.executable, "-m", "scene.learn.bare", "datasets/train", "datasets/test"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 10 and float(re.search(r"([\d.]+)% of the test photos right", lines[-1])[1]) > 85
    code = text(ROOT / "scene/learn/bare.py").partition("def run")[2].partition("\n\n\n")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 21


def test_the_layer_to_add_passes_the_oracle_line_beside_it():
    names = {**vars(activation), "oracle": oracle, "given": given, "images": images, "seeds": seeds}
    exec("import torch.nn.functional as F\n" + block(TUTORIAL, "class LeakyReLU"), names)
    exec(block(TUTORIAL, "test_leaky_relu"), names)
    settings(max_examples=20)(names["test_leaky_relu_is_that_of_torch"])()


def insert(path, before, lines):
    """Puts lines into a file, before the first place of these words."""
    content = path.read_text(encoding="utf-8")
    assert before in content
    path.write_text(content.replace(before, lines + before, 1), encoding="utf-8")


def test_the_layer_to_add_passes_every_test_when_it_is_added_to_the_letter(tmp_path):
    copy_checkout(tmp_path)
    activation_file = tmp_path / "scene/nn/activation.py"
    code = text(activation_file) + "\n\n" + block(TUTORIAL, "class LeakyReLU")
    activation_file.write_text(code, encoding="utf-8")
    nn = tmp_path / "tests/nn"
    (nn / "test_activation.py").write_text(
        text(nn / "test_activation.py") + "\n\n" + block(TUTORIAL, "test_leaky_relu"), encoding="utf-8")
    added = "from scene.nn.activation import LeakyReLU\n"
    for file in (nn / "test_activation.py", nn / "test_laws.py", tmp_path / "tests/twins.py"):
        insert(file, "from scene.nn.activation import", added)
    entries = re.findall(r"`(\"LeakyReLU\": [^`]+)`|`(LeakyReLU: lambda [^`]+)`", text(TUTORIAL))
    law, line = entries[0][0], entries[1][1]
    insert(nn / "test_laws.py", '    "Conv2d": (', f"    {law}\n")
    insert(tmp_path / "tests/twins.py", "    Conv2d: torch_conv", f"    {line}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/nn", "-k",
               "leaky or Leaky or activation or left_out or example or twin"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]


def test_the_network_to_add_trains_with_its_entry():
    names = dict(vars(models))
    exec(block(TUTORIAL, "class VGG"), names)
    entry = eval(f"{{{block(TUTORIAL, 'VGG, ')}}}", names)["VGG"]
    assert isinstance(entry, Mode) and entry.image_size == 64
    pixels, labels = photos(n=40)
    network = entry.network(3, 16)
    changes = {"epochs": 6, "batch_size": 20, "shard": 20}
    train(network, pixels, labels, Settings(**defaults(entry, len(labels)) | changes))
    assert (network.forward(pixels).argmax(1) == labels).float().mean() > 0.8
    assert isinstance(network.params, torch.Tensor)


# Commands


NOT_RUN_HERE = {                    # commands that no test runs as they stand, and why
    "git clone REPOSITORY scene && cd scene": "the address is the reader's",
    ". .venv/bin/activate": "changes the shell that it is typed into",
}


def commands(page):
    """The commands on a page: indented lines, with or without a prompt, that a shell would run."""
    program = r"(?:python3?|ruff|git|\.|\.\./|\.venv)\S*"
    lines = re.findall(rf"^ {{4,}}(?:\$ )?({program} .+)$", text(page), re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines if not line.startswith("python3 -m venv")]


def python_commands():
    """Every `python …` in a page's indented lines, and in its code spans."""
    found = set()
    for page in PAGES:
        spans = re.findall(r"`(python -m [^`]+|python lambda/[^`]+)`", text(page))
        found |= {line for line in [*commands(page), *spans] if line.startswith("python ")}
    return sorted(found)


@functools.cache
def help_of(*words):
    """What `python WORDS --help` prints."""
    command = [sys.executable, *words, "--help"]
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", python_commands())
def test_every_command_exists_with_its_options(command):
    words = shlex.split(command.partition(" > ")[0].partition(" >> ")[0].partition(", then")[0])[1:]
    program = words[:2] if words[0] == "-m" else words[:1]
    module = program[-1].replace("|", " ").split()[0]
    if module in ("pip", "pytest", "pytest,"):
        return
    if words[0] == "-m":
        assert importlib.util.find_spec(module), f"there is no module {module}"
    else:
        assert (ROOT / module).exists()
    given_options = [word for word in words if word.startswith("--") and word != "--help"]
    rest = [word for word in words[len(program):] if not word.startswith("-")]
    if module == "cloudformation" and rest and rest[0].isalpha() and rest[0].islower():
        program = [*program, rest[0]]
    if given_options:
        known = help_of(*program)
        for option in given_options:
            assert option in known, f"{command}: {option} is not an option of it"


@pages
def test_other_commands_are_known(page):
    """A command that is not Python's is listed above, or one that .ci/run runs."""
    others = [line for line in commands(page) if not line.startswith("python ")]
    gate = text(ROOT / ".ci/run")
    assert [line for line in others if line not in NOT_RUN_HERE and line not in gate] == []


def test_every_measurement_that_is_named_still_loads():
    """They are run by hand, too late to notice that a name has gone."""
    pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
    named = set(re.findall(r"python -m (tests\.bench\.\w+)", text(ROOT / "tests/bench/README.md")))
    there = {path.stem for path in (ROOT / "tests/bench").glob("*.py")} - {"__init__"}
    assert named == {f"tests.bench.{name}" for name in there}
    subprocess.run([sys.executable, "-c", f"import {', '.join(sorted(named))}"], cwd=ROOT, check=True)
