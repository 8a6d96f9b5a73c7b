import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from scene.nn.linear import Flatten, Linear
from tests import oracle
from tests.strategies import images, seeds, sizes


@given(sizes, sizes, sizes, seeds)
def test_linear_is_that_of_torch(n, inputs, outputs, seed):
    oracle.check(Linear(inputs, outputs), F.linear, (n, inputs), seed)


@given(images(), seeds)
def test_flatten_is_that_of_torch(shape, seed):
    oracle.check(Flatten(), lambda x: x.flatten(1), shape, seed)


def test_linear_names_both_shapes():
    with pytest.raises(ValueError, match=r"Linear takes an array of shape \(any, 3\), not \(2, 4\)"):
        oracle.prepare(Linear(3, 2)).forward(torch.zeros(2, 4))


def test_first_layer_computes_no_dx():
    layer = oracle.prepare(Linear(3, 2))
    layer.needs_dx = False
    layer.forward(oracle.numbers((4, 3)), training=True)
    assert layer.backward(oracle.numbers((4, 2))) is None
