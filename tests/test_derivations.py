"""The numbers in scene/nn/README.md: every example is run as a doctest, and none is missing where the text
promises one.
"""

import doctest
from pathlib import Path

import torch

PAGE = Path(__file__).parent.parent / "scene/nn/README.md"


def test_every_number_of_the_derivations_is_computed():
    names = {"torch": torch, "tensor": torch.tensor}
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, globs=names, encoding="utf-8")
    assert failed == 0 and tried > 30


def test_every_derivation_has_an_example():
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    without = [section.partition("\n")[0] for section in sections if ">>>" not in section]
    assert without == ["When NumPy lacks a function"]
