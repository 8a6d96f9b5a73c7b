"""The judge of every layer: torch.nn and autograd.

    oracle.check(Linear(3, 2), F.linear, x)

compares forward and backward of a layer with a function of torch that takes x and the layer's parameters, in their order. Everything in
float64, and with a random gradient from above: with a gradient of ones most wrong backward passes look right.
"""

import torch

from scene.nn.layer import Network


def prepare(layer, seed=0, dtype=torch.float64):
    """Gives a single layer its memory and parameters at random, biases and running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(layer).start(generator, dtype=dtype)
    network.params += torch.randn(network.size, generator=generator, dtype=dtype) / 2
    network.state += torch.rand(network.state_size, generator=generator, dtype=dtype)
    for _, inner in layer.walk():
        inner.generator, inner.needs_dx = generator, True
    return layer


def numbers(shape, seed=0, dtype=torch.float64):
    """Normal random numbers that depend on nothing but the seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check(layer, reference, x, seed=0, evaluation=True):
    """Asserts that y, dx and every parameter's gradient are the reference's. `x` may be a shape, to be filled at random.

    Evaluation has to give the same y, unless `evaluation` is False, for layers that do something else in training.
    """
    x = x if isinstance(x, torch.Tensor) else numbers(x, seed)
    prepare(layer, seed)
    theirs = {name: getattr(layer, name).clone().requires_grad_() for name in layer.parameters}
    their_x = x.clone().requires_grad_()

    y = layer.forward(x, training=True)
    their_y = reference(their_x, *theirs.values())
    assert_close("y", y, their_y)
    if evaluation:
        assert_close("y in evaluation", layer.forward(x), their_y)

    ours = {name: getattr(layer, "d" + name).fill_(float("nan")) for name in layer.parameters}      # in the flat vector
    dy = numbers((*y.shape, 2), seed + 1)[..., 0]               # not contiguous: a layer gets whatever the next one returns
    dx = layer.backward(dy)
    wanted = torch.autograd.grad(their_y, [their_x, *theirs.values()], dy)
    assert_close("dx", dx, wanted[0])
    for name, gradient in zip(theirs, wanted[1:], strict=True):
        assert_close("d" + name, ours[name], gradient)


def assert_close(what, ours, theirs):
    torch.testing.assert_close(ours, theirs, msg=lambda text: f"{what} is not the reference's: {text}")


def nchw(x):
    """Our images as torch.nn has them: (N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    """torch.nn's images as we have them: (N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)
