"""nn/fold.py: a folded network equals the network in evaluation, and can go backward on one photo."""

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.models import MODES
from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.fold import ChannelAffine, FoldedWinogradConv2d, fold, free_kernels
from scene.nn.layer import Layer, Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.loss import CrossEntropy
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.strategies import images, seeds


def trained(network, seed=0, dtype=torch.float64):
    """The network with random numbers everywhere, running statistics included, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    network.start(generator, dtype=dtype)
    network.params += torch.randn(network.size, generator=generator, dtype=dtype) / 4
    network.state += torch.rand(network.state_size, generator=generator, dtype=dtype)
    return network


def kinds(network):
    """The classes of a network's simple layers, in order."""
    return [type(layer) for _, layer in network.walk()]


IMAGE, ROW = (2, 5, 6, 3), (4, 3)
SEQUENCES = {
    "a convolution": (lambda: [Conv2d(3, 4, 3, padding=1), BatchNorm(4)], IMAGE, [Conv2d]),
    "one without bias": (lambda: [Conv2d(3, 4, 3, 2, 1, False), BatchNorm(4)], IMAGE, [Conv2d]),
    "Winograd": (lambda: [WinogradConv2d(3, 4, False), BatchNorm(4)], IMAGE, [FoldedWinogradConv2d]),
    "Winograd without a norm": (lambda: [WinogradConv2d(3, 4, False)], IMAGE, [FoldedWinogradConv2d]),
    "Linear": (lambda: [Linear(3, 4), BatchNorm(4), ReLU(), Dropout(0.5)], ROW, [Linear, ReLU]),
    "two norms": (lambda: [Linear(3, 4), BatchNorm(4), BatchNorm(4)], ROW, [Linear]),
    "Dropout between": (lambda: [Linear(3, 4), Dropout(0.5), BatchNorm(4)], ROW, [Linear]),
    "a norm behind a pool": (lambda: [Conv2d(3, 4, 3), MaxPool2d(2), BatchNorm(4)], IMAGE,
                             [Conv2d, MaxPool2d, ChannelAffine]),
    "a norm at the start": (lambda: [BatchNorm(3), Linear(3, 4)], ROW, [ChannelAffine, Linear]),
    "a norm behind ReLU": (lambda: [Linear(3, 4), ReLU(), BatchNorm(4)], ROW, [Linear, ReLU, ChannelAffine]),
    "nested": (lambda: [Sequential(Linear(3, 4)), Sequential(BatchNorm(4), ReLU())], ROW, [Linear, ReLU]),
    "a norm at the start of a body": (lambda: [Conv2d(3, 3, 1), Residual(Sequential(BatchNorm(3), ReLU()))],
                                      IMAGE, [Conv2d, ChannelAffine, ReLU]),
    "a norm behind a residual": (lambda: [Residual(Conv2d(3, 3, 1)), BatchNorm(3)], IMAGE,
                                 [Conv2d, ChannelAffine]),
    "a shortcut with a norm": (lambda: [Residual(Sequential(Conv2d(3, 4, 1), BatchNorm(4)),
                                                 Sequential(Conv2d(3, 4, 1), BatchNorm(4)))], IMAGE,
                               [Conv2d, Conv2d]),
    "a body of Dropout": (lambda: [Residual(Dropout(0.5)), Linear(3, 4)], ROW, [Linear]),
}


@pytest.mark.parametrize("name", SEQUENCES)
@given(seeds)
@settings(max_examples=20)
def test_a_folded_network_computes_what_evaluation_computes(name, seed):
    make, shape, expected = SEQUENCES[name]
    network = trained(Network(*make()), seed)
    folded = fold(network)
    assert kinds(folded) == expected
    x = oracle.numbers(shape, seed)
    torch.testing.assert_close(folded.forward(x), network.forward(x))
    torch.testing.assert_close(folded.forward(x, training=True), network.forward(x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_every_network_keeps_its_answers_on_both_libraries(mode, library):
    network = trained(MODES[mode].network(7, 32), dtype=torch.float32)
    pixels = torch.randint(256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = network.forward(pixels)
    if library == "numpy":
        network.place(network.params.numpy(), network.state.numpy())
        pixels = pixels.numpy()
    folded = fold(network)
    assert (folded.grads is not None) == (library == "torch") and fold(network, gradients=False).grads is None
    assert type(folded.params) is type(network.params) and not {BatchNorm, Dropout} & set(kinds(folded))
    z = folded.forward(pixels)
    assert z.dtype == network.params.dtype
    np.testing.assert_allclose(np.asarray(z), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", MODES)
def test_freed_kernels_change_no_answer_and_take_no_memory(mode):
    network = trained(MODES[mode].network(7, 32), dtype=torch.float32)
    network.place(network.params.numpy(), network.state.numpy())
    folded = fold(network, gradients=False)
    black, photo = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
    expected = fold(network, gradients=False).forward(photo)
    folded.forward(black)
    flat = weakref.ref(folded.params)
    kernels = [layer for _, layer in folded.walk() if isinstance(layer, FoldedWinogradConv2d)]
    free_kernels(folded)
    np.testing.assert_array_equal(folded.forward(photo), expected)
    assert flat() is None and all(layer.w is None for layer in kernels)
    assert bool(kernels) == (mode == "CNN")


@pytest.mark.parametrize("mode", MODES)
def test_a_single_photo_goes_forward_and_backward(mode):
    """The loss's gradients for the pixels and every parameter, beside autograd through the evaluation."""
    network = trained(MODES[mode].network(5, 32))
    folded = fold(network)
    for _, layer in folded.walk():
        layer.needs_dx = True
    photo = oracle.numbers((1, 32, 32, 3), 3) * 50 + 120
    label = torch.tensor([2])
    loss = CrossEntropy()
    value = loss.forward(folded.forward(photo, training=True), label)
    dx = folded.backward(loss.backward())

    twin_x = photo.clone().requires_grad_()
    params = [parameter.clone().requires_grad_() for parameter in views(folded)]
    for (layer, name), parameter in zip(places(folded), params, strict=True):
        setattr(layer, name, parameter)
    expected = F.cross_entropy(evaluate(folded, twin_x), label)
    gradients = torch.autograd.grad(expected, [twin_x, *params])
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(dx, gradients[0])
    for slot, gradient in zip(folded.parameter_slots, gradients[1:], strict=True):
        torch.testing.assert_close(getattr(slot.layer, "d" + slot.attribute), gradient, msg=slot.name)


def places(network):
    return [(slot.layer, slot.attribute) for slot in network.parameter_slots]


def views(network):
    return [getattr(layer, name) for layer, name in places(network)]


def evaluate(layer, x):
    """A folded network by functions of torch that autograd can follow."""
    if isinstance(layer, Sequential):
        for inner in layer.layers:
            x = evaluate(inner, x)
        return x
    if isinstance(layer, Residual):
        return evaluate(layer.body, x) + (x if layer.shortcut is None else evaluate(layer.shortcut, x))
    if isinstance(layer, Conv2d):
        bias = layer.b if "b" in layer.parameters else None
        return oracle.torch_conv(layer.stride, layer.padding)(x, layer.w, bias)
    return {
        Normalize: lambda: (x - layer.mean) / layer.std,
        Flatten: lambda: x.flatten(1),
        Linear: lambda: F.linear(x, layer.w, layer.b),
        ReLU: lambda: F.relu(x),
        ChannelAffine: lambda: x * layer.w + layer.b,
        MaxPool2d: lambda: oracle.nhwc(F.max_pool2d(oracle.nchw(x), layer.kernel, layer.stride)),
        GlobalAveragePool: lambda: x.mean((1, 2)),
    }[type(layer)]()


@given(images(), seeds)
def test_channel_affine_is_scale_and_shift(shape, seed):
    oracle.check(ChannelAffine(shape[-1]), lambda x, w, b: x * w + b, shape, seed)


def test_the_network_itself_is_not_touched():
    """Neither its numbers nor its layers: training could go on."""
    network = trained(MODES["CNN"].network(3, 32))
    before = [(id(layer), dict(vars(layer))) for _, layer in network.walk()]
    params = network.params.clone()
    folded = fold(network)
    folded.params.zero_()
    assert torch.equal(network.params, params)
    for (identity, attributes), (_, layer) in zip(before, network.walk(), strict=True):
        assert id(layer) == identity and vars(layer) == attributes


def test_folding_twice_is_folding_once():
    network = trained(MODES["CNN"].network(3, 32))
    once = fold(network)
    twice = fold(once)
    assert kinds(twice) == kinds(once) and torch.equal(twice.params, once.params)
    photo = oracle.numbers((1, 32, 32, 3))
    assert torch.equal(twice.forward(photo), once.forward(photo))


def test_winograd_kernels_are_transformed_once_for_each_size_of_tile(monkeypatch):
    calls = []
    transform = WinogradConv2d.kernels
    monkeypatch.setattr(
        WinogradConv2d, "kernels", lambda layer, tile: calls.append(tile) or transform(layer, tile))
    folded = fold(trained(Network(WinogradConv2d(2, 3))))
    for shape in (1, 8, 8, 2), (1, 8, 8, 2), (1, 2, 2, 2), (1, 2, 2, 2), (1, 8, 8, 2):
        folded.forward(oracle.numbers(shape))
    assert len(calls) == len(set(calls)) == 2


class Doubled(Linear):
    """A learner's layer: not the Linear that fold.py knows, though it inherits from it."""

    def forward(self, x, training=False):
        return 2 * super().forward(x, training)


class Twice(Sequential):
    """A learner's layer that inherits from Sequential and does something else."""

    def forward(self, x, training=False):
        return super().forward(x, training) + super().forward(x, training)


class Halved(Residual):
    """A learner's layer that inherits from Residual and does something else."""

    def forward(self, x, training=False):
        return super().forward(x, training) / 2


class Together(Layer):
    """A learner's layer that is given others in a list."""

    def __init__(self, layers):
        self.inner = layers

    def forward(self, x, training=False):
        return sum(layer.forward(x, training) for layer in self.inner)

    def walk(self, name=""):
        for i, layer in enumerate(self.inner):
            yield from layer.walk(f"{name}{i}.")


class Pair(Sequential):
    """A learner's layer made of layers, which it makes itself."""

    def __init__(self, width):
        super().__init__(Linear(width, width), BatchNorm(width))


@pytest.mark.parametrize("layers", [
    [Doubled(3, 4), BatchNorm(4)], [Pair(3), BatchNorm(3)], [Residual(Pair(3))],
    [Twice(Linear(3, 3), BatchNorm(3))],
    [Halved(Sequential(Linear(3, 3), BatchNorm(3)))], [Together([Linear(3, 4), Linear(3, 4)])],
    [Linear(3, 4), BatchNorm(4, epsilon=0.5)],
], ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_layers_that_fold_does_not_know_stay_as_they_are(layers, seed):
    network = trained(Network(*layers), seed)
    x = oracle.numbers(ROW, seed)
    torch.testing.assert_close(fold(network).forward(x), network.forward(x))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), seeds)
@settings(max_examples=30)
def test_folded_winograd_is_the_convolution_at_every_size(n, h, w, seed):
    network = trained(Network(WinogradConv2d(2, 3, False), BatchNorm(3)), seed)
    x = oracle.numbers((n, h, w, 2), seed)
    torch.testing.assert_close(fold(network).forward(x), network.forward(x))
