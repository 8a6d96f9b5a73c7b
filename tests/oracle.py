"""The oracle compares a layer with torch.nn and autograd.

    oracle.check(Linear(3, 2), F.linear, x)

compares forward and backward with a torch function that takes x and the layer's parameters, in their order.
It works in float64 and with a random dy: given a dy of ones, most wrong backward passes look right.
"""

import torch
import torch.nn.functional as F

from scene.nn.layer import Network


def prepare(layer, seed=0, dtype=torch.float64):
    """Gives a single layer its memory and random parameters, biases and running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(layer).start(generator, dtype=dtype)
    network.params += torch.randn(network.size, generator=generator, dtype=dtype) / 2
    network.state += torch.rand(network.state_size, generator=generator, dtype=dtype)
    for _, inner in layer.walk():
        inner.generator, inner.needs_dx = generator, True
    return layer


def numbers(shape, seed=0, dtype=torch.float64):
    """Normal random numbers that depend on the seed alone."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check(layer, reference, x, seed=0, evaluation=True):
    """Asserts that y, dx and every parameter's gradient are the reference's.

    `x` may be a shape, which is filled with random numbers. Evaluation must give the same y. For a layer that
    differs in training, `evaluation=False` skips this check.
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

    # Gradients are views of the flat vector. NaN shows an element that backward did not write.
    ours = {name: getattr(layer, "d" + name).fill_(float("nan")) for name in layer.parameters}
    dy = numbers((*y.shape, 2), seed + 1)[..., 0]       # not contiguous: a layer must accept any dy
    dx = layer.backward(dy)
    wanted = torch.autograd.grad(their_y, [their_x, *theirs.values()], dy)
    assert_close("dx", dx, wanted[0])
    for name, gradient in zip(theirs, wanted[1:], strict=True):
        assert_close("d" + name, ours[name], gradient)


class Mismatch(AssertionError):
    """An array that is not the reference's, with both of them."""

    def __init__(self, what, ours, theirs, why):
        super().__init__(f"{what} is not the reference's: {why}")
        self.what, self.ours, self.theirs = what, ours, theirs


def assert_close(what, ours, theirs, **tolerance):
    """Raises Mismatch unless two arrays agree. NaN in ours was put there by `check` before backward."""
    if ours.isnan().all() and not theirs.isnan().all():
        raise Mismatch(what, ours, theirs, "backward wrote nothing to it")
    try:
        torch.testing.assert_close(ours, theirs, **tolerance)
    except AssertionError as error:
        raise Mismatch(what, ours, theirs, error) from None


def nchw(x):
    """Our images in torch.nn's layout: (N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    """torch.nn's images in our layout: (N, C, H, W) -> (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def torch_conv(stride=1, padding=0):
    """Conv2d of torch.nn on our images, as a reference for `check`."""
    def reference(x, w, b=None):
        return nhwc(F.conv2d(nchw(x), nchw(w), b, stride, padding))
    return reference
