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


def test_relu_at_nan_and_infinity_is_that_of_torch():
    x = torch.tensor([float("nan"), -float("inf"), float("inf"), -0.0, 1e-45, -1e-45], dtype=torch.float32)
    theirs = x.clone().requires_grad_()
    dy = torch.arange(1.0, 7)
    wanted, = torch.autograd.grad(F.relu(theirs), theirs, dy)
    relu = ReLU()
    torch.testing.assert_close(relu.forward(x, training=True), F.relu(x), equal_nan=True, rtol=0, atol=0)
    assert relu.backward(dy).tolist() == wanted.tolist() == [1, 0, 3, 0, 5, 0]


def test_relu_passes_no_gradient_at_zero():
    relu = ReLU()
    relu.forward(torch.tensor([-1.0, 0.0, 2.0]), training=True)
    assert relu.backward(torch.tensor([5.0, 6.0, 7.0])).tolist() == [0, 0, 7]
