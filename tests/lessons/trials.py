"""What each lesson is tried on: Hypothesis draws cases, and a trial compares one with the oracle's reference.

A trial takes the learner's module, the notes of what it was shown (`seen`) and a case. It raises Mismatch for
a wrong number, and Mistake for another fault. A race makes something to time, of the learner's module or of
Scene's own.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from scene.nn import winograd
from scene.nn.activation import ReLU
from scene.nn.layer import Network
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.lessons.loop import watch_loop
from tests.lessons.report import words
from tests.lessons.skeleton import ROOT
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


# Optimizers


class Steps:
    """A network, and gradients that are drawn for each step, for an optimizer and for torch's."""

    def __init__(self, layers, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.network = Network(*layers).start(self.generator, dtype=torch.float64)
        self.theirs = {slot.name: array.clone().requires_grad_() for slot, array in self.slots()}

    def slots(self):
        arrays = self.network.arrays()
        return [(slot, arrays[slot.name]) for slot in self.network.parameter_slots]

    def draw(self):
        """New gradients, for both."""
        self.network.grads.normal_(generator=self.generator)
        for slot, _ in self.slots():
            self.theirs[slot.name].grad = getattr(slot.layer, "d" + slot.attribute).clone()

    def take(self, optimizers):
        """torch's step: the vector of parameters that it leads to, in our order."""
        for optimizer in optimizers:
            optimizer.step()
        return self.vector()

    def vector(self):
        return torch.cat([self.theirs[slot.name].detach().flatten() for slot, _ in self.slots()])


def race_steps(kind, sizes):
    """A race: one step of an optimizer on the parameters of an FCNN of these sizes."""
    def race(theirs):
        steps = Steps(map(Linear, sizes, sizes[1:]), 0)
        optimizer = getattr(theirs, kind)(steps.network, decay=0.01)

        def step():
            steps.network.grads.fill_(0.01)         # a step may have overwritten them
            optimizer.step(0.01)

        return step
    return race


def try_optimizer(seen, make_ours, make_theirs, layers, case, lengths=False, **tolerance):
    """Two trials on the same gradients: `direction` with parameters at rest, then `step`.

    With lengths, weights of hidden layers are scaled back to their length √(2 O) after torch's step.
    """
    count, seed, rate = case
    steps = Steps(layers(), seed)
    ours, torchs = make_ours(steps.network), make_theirs(steps, rate)
    rest = steps.network.params.clone()
    for _ in range(count):
        steps.draw()
        seen.note(params=rest, grads=steps.network.grads, velocity=ours.velocity)
        for slot, array in steps.slots():
            steps.theirs[slot.name].data.copy_(array)
        wanted = (rest - steps.take(torchs)) / rate
        assert_close("direction()", ours.direction(), wanted, **tolerance)

    steps = Steps(layers(), seed)
    ours, torchs = make_ours(steps.network), make_theirs(steps, rate)
    for _ in range(count):
        steps.draw()
        seen.note(params=steps.network.params, grads=steps.network.grads, velocity=ours.velocity)
        steps.take(torchs)
        if lengths:
            for slot in ours.hidden:
                w = steps.theirs[slot.name].data
                w *= (2 * len(w)) ** 0.5 / w.norm()
        ours.step(rate)
        assert_close("params after the step", steps.network.params, steps.vector(), **tolerance)


def momentum(theirs, seen, case):
    count, share, nesterov, decay, inputs, seed = case
    nesterov = nesterov and share > 0

    def torchs(steps, rate):
        groups = [{"params": [steps.theirs[slot.name]], "weight_decay": decay if slot.declared.decay else 0}
                  for slot, _ in steps.slots()]
        return [torch.optim.SGD(groups, lr=rate, momentum=share, nesterov=nesterov)]

    seen.clear(f"SGD(network, momentum={share}, decay={decay}, nesterov={nesterov})")
    try_optimizer(seen, lambda network: theirs.SGD(network, share, decay, nesterov), torchs,
                  lambda: [Linear(inputs, 1)], (count, seed, 0.5))


def muon(theirs, seen, case):
    count, rows, columns, share, decay, norm_rate, seed = case
    g = numbers((rows, columns), seed) * 10 ** norm_rate
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    s = s / s.norm()
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    assert_close("orthogonal(g)", theirs.orthogonal(g), u @ s.diag() @ vt, atol=1e-4, rtol=0)

    def torchs(steps, rate):
        hidden = steps.theirs["0.w"]
        last = steps.theirs["1.w"]
        others = [array for name, array in steps.theirs.items() if name.endswith("b")]
        groups = [{"params": [last], "weight_decay": decay}, {"params": others, "lr": rate * norm_rate}]
        return [torch.optim.Muon([hidden], lr=rate, momentum=share, weight_decay=0, ns_steps=3),
                torch.optim.SGD(groups, lr=rate, momentum=share, nesterov=share > 0)]

    seen.clear(f"Muon(network, momentum={share}, decay={decay}, norm_rate={norm_rate})")
    try_optimizer(seen, lambda network: theirs.Muon(network, share, decay, norm_rate), torchs,
                  lambda: [Linear(columns, rows), Linear(rows, 2)], (count, seed, 0.5), lengths=True,
                  atol=0.04, rtol=0)            # torch computes it in bfloat16


# Winograd


def try_winograd(theirs, seen, case):
    tile, roots, shape, outputs, seed = case
    wanted = torch.from_numpy(np.polynomial.polynomial.polyfromroots(roots) + 0.0)
    seen.note(roots=torch.tensor(roots, dtype=torch.float64))
    found = as_array(theirs.polynomial(list(roots)), f"polynomial({list(roots)})")
    assert_close("polynomial(roots)", found, wanted)

    seen.clear()
    bt, g, a = matrices(theirs, tile)
    d, kernel = numbers((tile + 2,), seed), numbers((3,), seed + 1)
    seen.note(**{"Bᵀ": bt, "G": g, "A": a, "g, the kernel": kernel, "d, the inputs": d})
    direct = (d.unfold(0, 3, 1) * kernel).sum(1)
    assert_close(f"Aᵀ [(G g) ⊙ (Bᵀ d)] of F({tile}, 3)", a.T @ ((g @ kernel) * (bt @ d)), direct)

    with in_their_place(theirs, tile):
        seen.note(**{"x of WinogradConv2d": numbers(shape, seed)})
        layer = WinogradConv2d(shape[-1], outputs, bias=False)
        oracle.check(layer, oracle.torch_conv(padding=1), shape, seed)


def as_array(result, name):
    """A list of numbers, or of rows of numbers, as an array."""
    try:
        return torch.tensor(result, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = "a list of numbers, or of rows of equal length"
        raise Mistake(f"{name} must be {wanted}, not {result}.") from error


def matrices(theirs, tile):
    """The learner's three matrices, of the right shapes."""
    found = theirs.cook_toom(tile)
    if not isinstance(found, (tuple, list)) or len(found) != 3:
        raise Mistake("cook_toom must return three matrices: return Bᵀ, G, A.")
    p = tile + 2
    shapes = {"Bᵀ": (p, p), "G": (p, 3), "A": (p, tile)}
    arrays = [as_array(matrix, f"{name} of cook_toom({tile})")
              for name, matrix in zip(shapes, found, strict=True)]
    for (name, shape), array in zip(shapes.items(), arrays, strict=True):
        if tuple(array.shape) != shape:
            raise Mistake(f"{name} of cook_toom({tile}) has the shape {tuple(array.shape)}, not {shape}.")
    return arrays


class in_their_place:                               # noqa: N801
    """Puts the learner's matrices into Scene's WinogradConv2d, with tiles of this size, for a while."""

    def __init__(self, theirs, tile):
        self.changes = {"cook_toom": theirs.cook_toom, "MATRICES": {}, "best_tile": lambda *_: tile}

    def __enter__(self):
        self.before = {name: getattr(winograd, name) for name in self.changes}
        for name, value in self.changes.items():
            setattr(winograd, name, value)

    def __exit__(self, *_):
        for name, value in self.before.items():
            setattr(winograd, name, value)


def race_winograd(theirs):
    return lambda: [theirs.cook_toom(tile) for tile in winograd.TILES]


# The gradient check


class Planted(Linear):
    """Linear with one wrong gradient, once it has a fault."""

    fault = None

    def backward(self, dy):
        db = self.db.clone()
        dx = super().backward(dy)
        if self.fault == TWICE:
            self.dw.mul_(2)
        if self.fault == UNWRITTEN:
            self.db.copy_(db)
        return -dx if self.fault == SIGN else dx


SIGN = "Linear with a dx of the wrong sign"
TWICE = "Linear with a dw of twice the size"
UNWRITTEN = "Linear with a db that backward does not write"


class WithoutVariance(BatchNorm):
    """Forgets that the variance depends on x."""

    def backward(self, dy):
        super().backward(dy)
        return self.w / self.std * (dy - dy.mean(0))


def subjects(columns):
    """Layers to check: (layer, its name, the names of its wrong gradients)."""
    yield ReLU(), "Scene's ReLU, which is right,", []
    yield Linear(columns, 2), "Scene's Linear, which is right,", []
    yield BatchNorm(columns), "Scene's BatchNorm, which is right,", []
    yield Planted(columns, 2), SIGN, ["dx"]
    yield Planted(columns, 2), TWICE, ["dw"]
    yield Planted(columns, 2), UNWRITTEN, ["db"]
    yield WithoutVariance(columns), "a BatchNorm without the path through the variance", ["dx"]


def gradient_check(theirs, seen, case):
    n, columns, seed = case
    x = numbers((n, columns), seed)
    x += x.sign() / 100                                     # away from ReLU's kink
    square = theirs.slope(lambda x: (x * x).sum(), x.clone())
    seen.note(x=x)
    assert_close("slope of the sum of squares", square, 2 * x, atol=1e-5, rtol=1e-5)
    for layer, subject, wanted in subjects(columns):
        oracle.prepare(layer, seed)
        y = layer.forward(x, training=True)
        dy = numbers(y.shape, seed + 1)
        layer.backward(dy)          # right gradients of an earlier call, not to be taken for new ones
        layer.fault = subject
        found = theirs.wrong_gradients(layer, x, dy)
        if not isinstance(found, (list, tuple, set)) or sorted(found) != wanted:
            raise Mistake(f"wrong_gradients of {subject} must return {wanted}, and returned {found}.")


def race_gradient_check(theirs):
    layer = oracle.prepare(Linear(8, 8))
    x, dy = numbers((8, 8)), numbers((8, 8), 1)
    return lambda: theirs.wrong_gradients(layer, x, dy)


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
                           (5, 48), (64, 20, 20, 48)),
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
                  st.lists(st.sampled_from(winograd.POINTS[1:]), min_size=1, max_size=5, unique=True),
                  FEW_PIXELS, st.integers(1, 2), seeds),
        try_winograd, race_winograd, "the matrices of four sizes"),
    "gradient_check": Trial(
        st.tuples(st.integers(3, 5), st.integers(1, 3), seeds), gradient_check, race_gradient_check,
        "a check of Linear(8, 8) on 8 rows", count=20),
    "training_loop": Trial(st.just(FOLDERS), training_loop, race_training_loop,
                           "the whole training", seconds=120, count=1),
}
