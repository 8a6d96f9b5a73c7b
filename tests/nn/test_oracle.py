"""Tests of the oracle: it must reject every one of these wrong layers."""

import pytest
import torch
import torch.nn.functional as F

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.layer import Residual
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.oracle import nchw, nhwc, torch_conv

IMAGE, ROW = (4, 6, 6, 3), (6, 4)


def check(layer, reference, x):
    """Without evaluation for BatchNorm, where the reference takes the batch's statistics."""
    oracle.check(layer, reference, x, evaluation=not isinstance(layer, BatchNorm))


def batch_norm(x, w, b):
    return F.batch_norm(x.reshape(-1, x.shape[-1]), None, None, w, b, training=True).reshape(x.shape)


CASES = {
    "Linear": (lambda: Linear(4, 3), F.linear, ROW),
    "ReLU": (ReLU, F.relu, IMAGE),
    "Conv2d": (lambda: Conv2d(3, 2, 3, padding=1), torch_conv(padding=1), IMAGE),
    "WinogradConv2d": (lambda: WinogradConv2d(3, 2), torch_conv(padding=1), IMAGE),
    "MaxPool2d": (lambda: MaxPool2d(2), lambda x: nhwc(F.max_pool2d(nchw(x), 2)), IMAGE),
    "GlobalAveragePool": (GlobalAveragePool, lambda x: x.mean((1, 2)), IMAGE),
    "BatchNorm": (lambda: BatchNorm(3), batch_norm, IMAGE),
}
wrong_dx = {
    "zero": lambda right, dy: right(dy) * 0,
    "sign": lambda right, dy: -right(dy),
    "reversed batch": lambda right, dy: right(dy).flip(0),
    "square of dy": lambda right, dy: right(dy * dy),
    "twice": lambda right, dy: 2 * right(dy),
    "mean of dy": lambda right, dy: right(dy.mean().expand(dy.shape).contiguous()),
}


@pytest.mark.parametrize("name", CASES)
def test_right_layers_pass(name):
    build, reference, shape = CASES[name]
    check(build(), reference, shape)


@pytest.mark.parametrize("bug", wrong_dx)
@pytest.mark.parametrize("name", CASES)
def test_wrong_dx_is_rejected(name, bug):
    build, reference, shape = CASES[name]
    layer = build()
    right = layer.backward
    layer.backward = lambda dy: wrong_dx[bug](right, dy)
    with pytest.raises(AssertionError, match="is not the reference's"):
        check(layer, reference, shape)


@pytest.mark.parametrize("bug", [
    lambda g: g.zero_(), lambda g: g.neg_(), lambda g: g.mul_(2), lambda g: g.copy_(g.flip(0)),
], ids=["zero", "sign", "twice", "reversed"])
@pytest.mark.parametrize("parameter", ["w", "b"])
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "WinogradConv2d", "BatchNorm"])
def test_wrong_gradients_of_parameters_are_rejected(name, parameter, bug):
    build, reference, shape = CASES[name]
    layer = build()
    right = layer.backward

    def wrong(dy):
        dx = right(dy)
        bug(getattr(layer, "d" + parameter))
        return dx

    layer.backward = wrong
    with pytest.raises(AssertionError, match=f"d{parameter} is not the reference's"):
        check(layer, reference, shape)


class WithoutMean(BatchNorm):
    """Ignores that the mean depends on x: no dβ/M."""

    def backward(self, dy):
        dx = super().backward(dy)
        _, m = self.rows(dy)
        return dx + self.db / m * self.w / self.std


class WithoutVariance(BatchNorm):
    """Ignores that the variance depends on x: no x̂ dγ/M."""

    def backward(self, dy):
        dx = super().backward(dy)
        _, m = self.rows(dy)
        return dx + self.centred / self.std * self.dw / m * self.w / self.std


class GivesToAll(MaxPool2d):
    """Gives dy to every maximum of a tie instead of the first."""

    def backward(self, dy):
        dx = torch.zeros_like(self.x)
        for place in self.places(self.x):
            dx[place] += dy * (self.x[place] == self.y)
        return dx


class HalfOpen(ReLU):
    """Lets the gradient through at 0."""

    def backward(self, dy):
        return dy * (self.y >= 0)


class OneWay(Residual):
    """Forgets the shortcut in backward."""

    def backward(self, dy):
        return self.body.backward(dy)


class NoBias(Linear):
    """Forgets b in forward."""

    def forward(self, x, training=False):
        return super().forward(x, training) - self.b


class ForgetsInEvaluation(Linear):
    """Is right in training and wrong in evaluation, which is reported and deployed."""

    def forward(self, x, training=False):
        return super().forward(x, training) - (0 if training else self.b)


class Elsewhere(Linear):
    """Computes dw, but does not write it into the network's vector, which the optimizer reads."""

    def backward(self, dy):
        dx, self.dw = dy @ self.w, dy.T @ self.x
        self.db.copy_(dy.sum(0))
        return dx


class Adds(Linear):
    """Adds to the previous step's gradient."""

    def backward(self, dy):
        before = self.dw.clone()
        dx = super().backward(dy)
        self.dw.add_(before)
        return dx


class LastPhoto(Linear):
    """Computes db from the last photo alone."""

    def backward(self, dy):
        dx = super().backward(dy)
        self.db.copy_(dy[-1])
        return dx


class Unscaled(Normalize):
    """Forgets std in backward."""

    def backward(self, dy):
        return dy


integers = oracle.numbers(IMAGE).round()


@pytest.mark.parametrize("layer, reference, x", [
    (WithoutMean(3), batch_norm, IMAGE),
    (WithoutVariance(3), batch_norm, IMAGE),
    (GivesToAll(2), lambda x: nhwc(F.max_pool2d(nchw(x), 2)), integers),
    (HalfOpen(), F.relu, integers),
    (OneWay(ReLU()), lambda x: F.relu(x) + x, IMAGE),
    (NoBias(4, 3), F.linear, ROW),
    (LastPhoto(4, 3), F.linear, ROW),
    (ForgetsInEvaluation(4, 3), F.linear, ROW),
    (Elsewhere(4, 3), F.linear, ROW),
    (Adds(4, 3), F.linear, ROW),
    (Conv2d(3, 2, 3, padding=1), torch_conv(padding=0), (4, 6, 6, 3)),
], ids=lambda value: type(value).__name__)
def test_subtle_bugs_are_rejected(layer, reference, x):
    with pytest.raises((AssertionError, RuntimeError)):
        check(layer, reference, x)


def test_unscaled_normalize_is_rejected():
    layer = Unscaled(3)
    with pytest.raises(AssertionError, match="dx"):
        check(layer, lambda x: (x - layer.mean) / layer.std, IMAGE)
