"""Laws that hold for every layer, whatever its formula."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.fold import ChannelAffine
from scene.nn.layer import Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.strategies import seeds
from tests.twins import layer_classes

IMAGE, ROW = (5, 6, 7, 3), (5, 4)

LAYERS = {
    "Normalize": (lambda: Normalize(3), IMAGE),
    "Flatten": (Flatten, IMAGE),
    "Linear": (lambda: Linear(4, 3), ROW),
    "ReLU": (ReLU, IMAGE),
    "Conv2d": (lambda: Conv2d(3, 4, 3, stride=2, padding=1), IMAGE),
    "WinogradConv2d": (lambda: WinogradConv2d(3, 4), IMAGE),
    "MaxPool2d": (lambda: MaxPool2d(2), IMAGE),
    "overlapping MaxPool2d": (lambda: MaxPool2d(3, 2), IMAGE),
    "GlobalAveragePool": (GlobalAveragePool, IMAGE),
    "BatchNorm": (lambda: BatchNorm(3), IMAGE),
    "BatchNorm of rows": (lambda: BatchNorm(4), ROW),
    "Dropout": (lambda: Dropout(0.5), IMAGE),
    "ChannelAffine": (lambda: ChannelAffine(3), IMAGE),
    "Sequential": (lambda: Sequential(Linear(4, 8), ReLU(), Linear(8, 2)), ROW),
    "Residual": (lambda: Residual(Sequential(WinogradConv2d(3, 3), BatchNorm(3), ReLU())), IMAGE),
    "Residual with shortcut": (lambda: Residual(Conv2d(3, 2, 2, 2), Conv2d(3, 2, 2, 2)), IMAGE),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
few = settings(max_examples=10)


def make(name, seed, dtype=torch.float64):
    build, shape = LAYERS[name]
    return oracle.prepare(build(), seed, dtype), oracle.numbers(shape, seed + 1, dtype)


def test_no_layer_is_left_out():
    # test_layer.py tests Network. The weights of a FoldedWinogradConv2d may not change after its first call.
    left_out = {"Network", "FoldedWinogradConv2d"}
    there = {type(build()).__name__ for build, _ in LAYERS.values()}
    missing = layer_classes().keys() - left_out - there
    assert not missing, f"add {', '.join(sorted(missing))} to LAYERS in this file"


@pytest.mark.parametrize("name, shape, wanted", [
    ("Normalize", (5, 6, 7, 4), "any, any, any, 3"), ("Normalize", (6, 7, 3), "any, any, any, 3"),
    ("Linear", (5, 3), "any, 4"), ("Linear", (4,), "any, 4"), ("Linear", (2, 5, 4), "any, 4"),
    ("Conv2d", (5, 6, 7, 4), "any, any, any, 3"), ("Conv2d", (6, 7, 3), "any, any, any, 3"),
    ("WinogradConv2d", (5, 6, 7, 1), "any, any, any, 3"), ("WinogradConv2d", (6, 7, 3), "any, any, any, 3"),
    ("MaxPool2d", (6, 7, 3), "any, any, any, any"), ("GlobalAveragePool", (5, 4), "any, any, any, any"),
    ("BatchNorm", (5, 6, 7, 1), "any, any, any, 3"), ("BatchNorm of rows", (5, 3), "any, 4"),
    ("ChannelAffine", (5, 6, 7, 1), "any, any, any, 3"),
])
@pytest.mark.parametrize("training", [True, False])
def test_another_shape_is_refused_with_both_shapes(name, shape, wanted, training):
    layer, _ = make(name, 0)
    expected = f"{type(layer).__name__} takes an array of shape ({wanted}), not {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        layer.forward(oracle.numbers(shape), training)


@every_layer
@given(seeds)
@few
def test_backward_is_linear_in_dy(name, seed):
    layer, x = make(name, seed)
    y = layer.forward(x, training=True)
    a, b = oracle.numbers(y.shape, seed + 2), oracle.numbers(y.shape, seed + 3)
    results = []
    for dy in (a, b, 2 * a - 3 * b):
        dx = layer.backward(dy)
        gradients = [getattr(inner, "d" + key) for _, inner in layer.walk() for key in inner.parameters]
        results.append([array.clone() for array in (dx, *gradients)])
    for of_a, of_b, of_both in zip(*results, strict=True):
        torch.testing.assert_close(of_both, 2 * of_a - 3 * of_b)


@every_layer
@given(seeds)
@few
def test_nothing_it_received_is_written_to(name, seed):
    layer, x = make(name, seed)
    x_before = x.clone()
    before = [getattr(inner, key).clone() for _, inner in layer.walk() for key in inner.parameters]
    y = layer.forward(x, training=True)
    y_before = y.clone()
    dy = oracle.numbers(y.shape, seed + 2)
    dy_before = dy.clone()
    layer.backward(dy)
    layer.forward(x)
    assert torch.equal(x, x_before)
    assert torch.equal(dy, dy_before)
    assert torch.equal(y, y_before), "an array it returned is valid until its next call in training"
    after = [getattr(inner, key) for _, inner in layer.walk() for key in inner.parameters]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_layer
@given(seeds)
@few
def test_photos_do_not_depend_on_their_order(name, seed):
    layer, x = make(name, seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(layer.forward(x[order]), layer.forward(x)[order])


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Dropout"])
@given(seeds)
@few
def test_nor_does_training_depend_on_their_order(name, seed):
    layer, x = make(name, seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    y = layer.forward(x, training=True)
    dy = oracle.numbers(y.shape, seed + 2)
    dx = layer.backward(dy).clone()
    torch.testing.assert_close(layer.forward(x[order], training=True), y[order])
    torch.testing.assert_close(layer.backward(dy[order]), dx[order])


@every_layer
@given(seeds)
@few
def test_evaluation_is_repeatable_and_remembers_nothing(name, seed):
    layer, x = make(name, seed)
    before = [dict(vars(inner)) for _, inner in layer.walk()]
    assert torch.equal(layer.forward(x), layer.forward(x))
    for (_, inner), attributes in zip(layer.walk(), before, strict=True):
        assert vars(inner).keys() == attributes.keys()
        assert all(value is attributes[key] for key, value in vars(inner).items())


@every_layer
@given(seeds)
@few
def test_evaluation_on_numpy_is_that_on_torch(name, seed):
    layer, x = make(name, seed, torch.float32)
    y = layer.forward(x)
    assert y.dtype == torch.float32
    for _, inner in layer.walk():
        for key in [*inner.parameters, *inner.statistics]:
            setattr(inner, key, getattr(inner, key).numpy())
    on_numpy = layer.forward(x.numpy())
    assert type(on_numpy) is np.ndarray and on_numpy.dtype == np.float32
    np.testing.assert_allclose(on_numpy, y.numpy(), rtol=1e-4, atol=1e-4)


@every_layer
def test_float32_stays_float32_in_training(name):
    layer, x = make(name, 0, torch.float32)
    y = layer.forward(x, training=True)
    assert y.dtype == torch.float32
    assert layer.backward(torch.ones_like(y)).dtype == torch.float32


@every_layer
def test_repr_is_code_that_makes_an_equal_layer(name):
    layer, x = make(name, 0)
    equal = eval(repr(layer), {"__builtins__": {}}, layer_classes())
    assert type(equal) is type(layer) and repr(equal) == repr(layer)
    assert torch.equal(oracle.prepare(equal, 0).forward(x), layer.forward(x))


@every_layer
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "deepcopy", "pickle"])
def test_a_copy_remembers_the_call(name, copied):
    layer, x = make(name, 0)
    other = copied(layer)
    assert other is not layer and type(other) is type(layer)
    assert repr(other.call) == repr(layer.call) and repr(other) == repr(layer)
    assert torch.equal(other.forward(x), layer.forward(x))
