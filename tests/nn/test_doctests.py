"""Runs the examples in the docstrings of scene/nn. Every layer and every loss has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import scene.nn
from scene.nn import loss
from scene.nn.layer import Network
from tests.twins import layer_classes

MODULES = ["scene.nn", *(f"scene.nn.{module.name}" for module in pkgutil.iter_modules(scene.nn.__path__))]
CLASSES = layer_classes() | dict(inspect.getmembers(loss, inspect.isclass))


@pytest.mark.parametrize("name", MODULES)
def test_every_example_is_right(name):
    names = {"torch": torch, "tensor": torch.tensor, "Network": Network}
    failed, _ = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert failed == 0          # pytest shows the examples that failed


@pytest.mark.parametrize("name", CLASSES)
def test_every_layer_and_every_loss_has_an_example(name):
    text = CLASSES[name].__doc__ or ""
    assert doctest.DocTestParser().get_examples(text), f"{name}'s docstring has no example"
