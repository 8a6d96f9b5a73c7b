import torch
import torch.nn.functional as F
from hypothesis import given

from scene.nn.activation import ReLU
from tests import oracle
from tests.strategies import images, seeds


@given(images(), seeds)
def test_relu_is_that_of_torch(shape, seed):
    oracle.check(ReLU(), F.relu, shape, seed)


@given(images(), seeds)
def test_relu_at_its_corner_is_that_of_torch(shape, seed):
    oracle.check(ReLU(), F.relu, oracle.numbers(shape, seed).round(), seed)


def test_relu_passes_no_gradient_at_zero():
    relu = ReLU()
    relu.forward(torch.tensor([-1.0, 0.0, 2.0]), training=True)
    assert relu.backward(torch.tensor([5.0, 6.0, 7.0])).tolist() == [0, 0, 7]
