"""The trial of the lesson "gradient_check": right layers, and some with a wrong gradient."""

from scene.nn.activation import ReLU
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from tests import oracle
from tests.lessons.watch import Mistake
from tests.oracle import assert_close, numbers


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
