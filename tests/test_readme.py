"""What README.md shows is true: its code runs, its tree is the tree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from scene.nn import activation
from tests import oracle
from tests.strategies import images, seeds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(containing):
    """The Python block of the README that contains these words, without its indentation."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    texts = [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in blocks]
    return next(text for text in texts if containing in text)


def test_the_layer_to_add_passes_the_oracle_line_beside_it():
    names = {**vars(activation), "oracle": oracle, "given": given, "images": images, "seeds": seeds}
    exec("import torch.nn.functional as F\n" + block("class LeakyReLU"), names)
    exec(block("test_leaky_relu"), names)
    settings(max_examples=20)(names["test_leaky_relu_is_that_of_torch"])()


def test_the_layer_shown_is_the_layer():
    shown = [line.strip() for line in block("def backward(self, dy):\n    xp").splitlines() if line.strip() not in ("", "...")]
    real = [line.strip() for line in (ROOT / "scene/nn/linear.py").read_text(encoding="utf-8").splitlines()]
    assert [line for line in shown if line not in real] == []


def test_the_tree_names_what_is_there_and_nothing_else():
    tree = README[README.index("```\nscene/"):]
    tree = tree[:tree.index("```", 3)]
    named = set(re.findall(r"^ +(\w+\.py) ", tree, re.MULTILINE))
    there = {path.name for room in ("scene", "lambda", "cloudformation") for path in (ROOT / room).rglob("*.py")} - {"__init__.py"}
    assert named == there


def test_the_pictures_are_there_and_small():
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / name).stat().st_size < 100_000


def test_every_measurement_that_is_named_still_loads():
    """They are run by hand, too late to notice that a name has gone."""
    pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
    named = set(re.findall(r"python -m (tests\.bench\.\w+)", (ROOT / "tests/bench/README.md").read_text(encoding="utf-8")))
    assert named == {f"tests.bench.{path.stem}" for path in (ROOT / "tests/bench").glob("*.py")} - {"tests.bench.__init__"}
    subprocess.run([sys.executable, "-c", f"import {', '.join(sorted(named))}"], cwd=ROOT, check=True)
