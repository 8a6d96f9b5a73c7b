"""What each lesson is tried on: Hypothesis draws cases, and a trial compares one with the oracle's reference.

A trial takes the learner's module, the notes of what it was shown (`seen`) and a case. It raises Mismatch for
a wrong number, and Mistake for another fault. A race makes something to time, of the learner's module or of
Scene's own.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from scene.nn import winograd
from scene.nn.activation import ReLU
from scene.nn.normalize import Normalize
from tests import oracle
from tests.lessons.loop import watch_loop
from tests.lessons.matrices import race_winograd, try_winograd
from tests.lessons.optimizers import momentum, muon, race_steps
from tests.lessons.report import words
from tests.lessons.skeleton import ROOT
from tests.lessons.slopes import gradient_check, race_gradient_check
from tests.lessons.watch import Mistake
from tests.oracle import assert_close, nchw, nhwc, numbers
from tests.strategies import images, seeds, sizes

FEW_PIXELS = images(most=6)


class Trial(NamedTuple):
    """How a lesson is tried: a strategy, a function of (theirs, seen, case), and what to time."""

    cases: Any
    run: Any
    race: Any
    raced: str              # what is timed, in words
    last: Any = None        # one more trial, of (theirs, seen), after all cases have passed
    seconds: float = 10     # that a single case may take
    count: int = 100        # cases


# Layers


def keeps_the_contract(make, shape):
    """A last trial: float32 stays float32, and evaluation gives y again and remembers nothing."""
    def last(theirs, seen):
        layer = oracle.prepare(make(theirs), dtype=torch.float32)
        x = numbers(shape, dtype=torch.float32)
        before = [(inner, dict(vars(inner))) for _, inner in layer.walk()] + [(layer, dict(vars(layer)))]
        layer.forward(x)
        for inner, attributes in before:
            kept = [name for name, value in vars(inner).items() if attributes.get(name) is not value]
            if kept:
                owner = "self" if inner is layer else f"the {type(inner).__name__} inside"
                raise Mistake(f"In evaluation {owner} keeps {kept[0]}, when no backward will need it: let it "
                              "depend on `training`.")
        y = layer.forward(x, training=True)
        expect_float32("y", y, "x")
        expect_float32("dx", layer.backward(torch.ones_like(y)), "x")
    return last


def expect_float32(what, array, given):
    if array.dtype != torch.float32:
        raise Mistake(f"{what} is {words(array.dtype)} although {given} is float32. Give new arrays the "
                      f"dtype of {given}, as {given}.new_zeros(…) and torch.zeros_like({given}) do.")


def forward_and_backward(make, shape):
    """A race: one layer forward and backward in training, in float32."""
    def race(theirs):
        layer = oracle.prepare(make(theirs), dtype=torch.float32)
        x = numbers(shape, dtype=torch.float32)
        dy = torch.ones_like(layer.forward(x, training=True))

        def step():
            layer.forward(x, training=True)
            layer.backward(dy)

        return step
    return race


def of_layer(cases, run, make, small, large):
    """The trial of a layer. small: a shape for the contract; large: one for the race."""
    raced = f"forward and backward on {large}"
    return Trial(cases, run, forward_and_backward(make, large), raced, keeps_the_contract(make, small))


def relu(theirs, seen, case):
    shape, whole, seed = case
    x = numbers(shape, seed)
    oracle.check(theirs.ReLU(), F.relu, x.round() if whole else x, seed)


def linear(theirs, seen, case):
    n, inputs, outputs, seed = case
    oracle.check(theirs.Linear(inputs, outputs), F.linear, (n, inputs), seed)


def residual(theirs, seen, case):
    shape, with_shortcut, seed = case
    layer = theirs.Residual(ReLU(), Normalize(shape[-1]) if with_shortcut else None)

    def reference(x):
        shortcut = (x - layer.shortcut.mean) / layer.shortcut.std if with_shortcut else x
        return F.relu(x) + shortcut

    oracle.check(layer, reference, shape, seed)


def max_pool(theirs, seen, case):
    shape, kernel, stride, ties, seed = case
    x = numbers(shape, seed)
    oracle.check(theirs.MaxPool2d(kernel, stride), lambda x: nhwc(F.max_pool2d(nchw(x), kernel, stride)),
                 x.round() if ties else x, seed)


def batch_norm(theirs, seen, case):
    shape, seed = case
    channels = shape[-1]

    def reference(x, w, b):
        return F.batch_norm(x.reshape(-1, channels), None, None, w, b, training=True).reshape(shape)

    oracle.check(theirs.BatchNorm(channels), reference, shape, seed, evaluation=False)

    seen.clear()
    layer = oracle.prepare(theirs.BatchNorm(channels), seed)
    mean, var = layer.mean.clone(), layer.var.clone()
    seen.note(**{"running mean before": mean, "running variance before": var})
    x = 3 * numbers(shape, seed) + 1
    rows = x.reshape(-1, channels)
    layer.forward(x, training=True)
    F.batch_norm(rows, mean, var, training=True)                        # moves mean and var
    assert_close("the running mean", layer.mean, mean)
    assert_close("the running variance", layer.var, var)
    y = F.batch_norm(rows, mean, var, layer.w, layer.b).reshape(shape)
    assert_close("y in evaluation", layer.forward(x), y)


def last_of_batch_norm(theirs, seen):
    """A last trial: the contract of a layer, and no training on a single row."""
    keeps_the_contract(lambda theirs: theirs.BatchNorm(48), (5, 48))(theirs, seen)
    try:
        oracle.prepare(theirs.BatchNorm(2)).forward(numbers((1, 2)), training=True)
    except ValueError:
        return
    raise Mistake("Training on a single row, x (1, 2), raises no ValueError, although it has no variance.")


def torch_patches(x, kernel, stride, padding):
    """The patches of torch's unfold, in our order."""
    n, channels = x.shape[0], x.shape[3]
    columns = F.unfold(nchw(x), kernel, padding=padding, stride=stride)     # (n, C·k·k, H'·W')
    columns = columns.reshape(n, channels, kernel, kernel, -1)
    return columns.permute(0, 4, 2, 3, 1).reshape(-1, kernel * kernel * channels)


def im2col(theirs, seen, case):
    shape, outputs, kernel, stride, padding, seed = case
    layer = oracle.prepare(theirs.Conv2d(shape[-1], outputs, kernel, stride, padding), seed)
    x = numbers(shape, seed).requires_grad_()
    patches = torch_patches(x, kernel, stride, padding)
    assert_close("patches", layer.patches(x.detach()), patches.detach())
    dpatches = numbers(patches.shape, seed + 1)
    dx, = torch.autograd.grad(patches, x, dpatches)
    assert_close("what gather returns", layer.gather(dpatches, shape), dx)
    reference = oracle.torch_conv(stride, padding)
    oracle.check(theirs.Conv2d(shape[-1], outputs, kernel, stride, padding), reference, shape, seed)


# The loss


def cross_entropy(theirs, seen, case):
    n, k, smoothing, large, seed = case
    z = numbers((n, k), seed) * (1000 if large else 3)
    z.requires_grad_()
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    assert_close("p", theirs.softmax(z.detach()), z.detach().softmax(1))
    loss = theirs.CrossEntropy(smoothing)
    wanted = F.cross_entropy(z, labels, label_smoothing=smoothing)
    seen.clear(f"CrossEntropy(smoothing={smoothing})")
    assert_close("L", torch.as_tensor(loss.forward(z.detach(), labels)), wanted.detach())
    assert_close("dz", loss.backward(), torch.autograd.grad(wanted, z)[0])


def keeps_float32(theirs, seen):
    loss = theirs.CrossEntropy(0.1)
    loss.forward(numbers((3, 4), dtype=torch.float32), torch.tensor([0, 1, 3]))
    expect_float32("dz", loss.backward(), "z")


def race_cross_entropy(theirs):
    z = numbers((256, 100), dtype=torch.float32)
    labels = torch.arange(256) % 100
    loss = theirs.CrossEntropy(0.1)

    def step():
        loss.forward(z, labels)
        loss.backward()

    return step


# The loop


def training_loop(theirs, seen, case):
    watch_loop(theirs, seen, *case)


def race_training_loop(theirs):
    return lambda: theirs.run(*FOLDERS)


FOLDERS = str(ROOT / "datasets/train"), str(ROOT / "datasets/test")


channels = st.integers(1, 4)
normalised = st.one_of(
    st.tuples(st.integers(2, 9), channels),
    images(most=4).filter(lambda shape: torch.Size(shape[:-1]).numel() > 1))
shares = st.sampled_from([0.9, 0.5, 0.0])
rates = st.sampled_from([0.0, 0.1])

TRIALS = {
    "relu": of_layer(st.tuples(images(), st.booleans(), seeds), relu, lambda theirs: theirs.ReLU(),
                     (2, 3), (64, 20, 20, 48)),
    "linear": of_layer(st.tuples(sizes, sizes, sizes, seeds), linear, lambda theirs: theirs.Linear(1728, 384),
                       (2, 1728), (128, 1728)),
    "residual": of_layer(st.tuples(images(), st.booleans(), seeds), residual,
                         lambda theirs: theirs.Residual(ReLU()), (2, 3), (64, 20, 20, 48)),
    "max_pool": of_layer(
        st.tuples(images(most=7), st.integers(1, 4), st.integers(1, 4), st.booleans(), seeds).filter(
            lambda case: min(case[0][1:3]) >= case[1]),
        max_pool, lambda theirs: theirs.MaxPool2d(2), (2, 4, 4, 3), (16, 40, 40, 32)),
    "batch_norm": of_layer(st.tuples(normalised, seeds), batch_norm, lambda theirs: theirs.BatchNorm(48),
                           (5, 48), (64, 20, 20, 48))._replace(last=last_of_batch_norm),
    "im2col": of_layer(
        st.tuples(FEW_PIXELS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2),
                  seeds).filter(lambda case: min(case[0][1:3]) + 2 * case[4] >= case[2]),
        im2col, lambda theirs: theirs.Conv2d(16, 16, 3, padding=1), (2, 4, 4, 16), (16, 20, 20, 16)),
    "cross_entropy": Trial(
        st.tuples(sizes, st.integers(2, 12), st.sampled_from([0.0, 0.1, 0.5]), st.booleans(), seeds),
        cross_entropy, race_cross_entropy, "forward and backward on scores of (256, 100)",
        keeps_float32),
    "momentum": Trial(
        st.tuples(st.integers(1, 4), shares, st.booleans(), rates, st.integers(1, 5), seeds),
        momentum, race_steps("SGD", (1728, 384, 256, 10)), "a step of 766 000 parameters"),
    "muon": Trial(
        st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), shares, rates,
                  st.sampled_from([1.0, 4.0]), seeds),
        muon, race_steps("Muon", (1728, 384, 256, 10)), "a step of 766 000 parameters"),
    "winograd": Trial(
        st.tuples(st.sampled_from(winograd.TILES),
                  st.lists(st.sampled_from(winograd.POINTS[6][1:]), min_size=1, max_size=5, unique=True),
                  FEW_PIXELS, st.integers(1, 2), seeds),
        try_winograd, race_winograd, "the matrices of four sizes"),
    "gradient_check": Trial(
        st.tuples(st.integers(3, 5), st.integers(1, 3), seeds), gradient_check, race_gradient_check,
        "a check of Linear(8, 8) on 8 rows", count=20),
    "training_loop": Trial(st.just(FOLDERS), training_loop, race_training_loop,
                           "the whole training", seconds=120, count=1),
}
