"""The second oracle: no layer differs from its measured slopes, and wrong gradients are found."""

import doctest

import pytest
import torch

from scene.nn.linear import Linear
from tests import differences, oracle
from tests.differences import wrong_gradients
from tests.nn.test_laws import LAYERS

RANDOM = {"Dropout"}                # draws another mask at each call


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in RANDOM])
def test_every_layer_has_the_slopes_that_it_computes(name):
    build, shape = LAYERS[name]
    layer = oracle.prepare(build())
    x = oracle.numbers((3, *(min(side, 4) for side in shape[1:])))
    y = layer.forward(x, training=True)
    assert wrong_gradients(layer, x, oracle.numbers(y.shape, 1)) == []


@pytest.mark.parametrize("parameter", ["w", "b"])
@pytest.mark.parametrize("bug", [torch.Tensor.zero_, torch.Tensor.neg_, lambda g: g.mul_(1.001)],
                         ids=["zero", "sign", "a thousandth"])
def test_a_wrong_gradient_is_named(parameter, bug):
    layer = oracle.prepare(Linear(3, 2))
    right = layer.backward

    def wrong(dy):
        dx = right(dy)
        bug(getattr(layer, "d" + parameter))
        return dx

    layer.backward = wrong
    assert wrong_gradients(layer, oracle.numbers((4, 3)), oracle.numbers((4, 2), 1)) == ["d" + parameter]


def test_a_gradient_that_backward_does_not_write_is_named():
    layer = oracle.prepare(Linear(3, 2))
    x, dy = oracle.numbers((4, 3)), oracle.numbers((4, 2), 1)
    layer.forward(x, training=True)
    dx = layer.backward(dy)                 # dw and db are right now, and stay
    layer.backward = lambda dy: dx
    assert wrong_gradients(layer, x, dy) == ["dw", "db"]


def test_what_is_measured_is_restored():
    layer = oracle.prepare(Linear(3, 2))
    x = oracle.numbers((4, 3))
    before = x.clone(), layer.w.clone(), layer.b.clone()
    wrong_gradients(layer, x, oracle.numbers((4, 2), 1))
    assert all(torch.equal(a, b) for a, b in zip(before, (x, layer.w, layer.b), strict=True))


def test_its_examples_are_right():
    failed, tried = doctest.testmod(differences, extraglobs={"torch": torch, "tensor": torch.tensor})
    assert failed == 0 and tried >= 7
