import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from scene.nn.norm import BatchNorm
from tests import oracle
from tests.strategies import images, seeds

channels = st.integers(1, 5)
shapes = st.one_of(
    images(),
    st.tuples(st.integers(2, 9), channels),                     # rows
    st.tuples(st.integers(1001, 3000), channels),               # more than 1000 rows, and images with as many
    st.tuples(st.integers(3, 4), st.integers(20, 30), st.integers(20, 30), channels))


def rows(shape):
    return torch.Size(shape[:-1]).numel()


@given(shapes, seeds)
def test_batch_norm_is_that_of_torch(shape, seed):
    assume(rows(shape) > 1)

    def reference(x, w, b):
        return F.batch_norm(x.reshape(-1, shape[-1]), None, None, w, b, training=True).reshape(shape)

    oracle.check(BatchNorm(shape[-1]), reference, shape, seed, evaluation=False)


@given(shapes, st.integers(1, 3), seeds)
def test_running_statistics_and_evaluation_are_those_of_torch(shape, steps, seed):
    assume(rows(shape) > 1)
    ours = oracle.prepare(BatchNorm(shape[-1]), seed)
    theirs = torch.nn.BatchNorm1d(shape[-1]).double()
    theirs.load_state_dict({
        "weight": ours.w, "bias": ours.b, "running_mean": ours.mean, "running_var": ours.var,
        "num_batches_tracked": torch.tensor(0)})
    for step in range(steps):
        x = 3 * oracle.numbers(shape, seed + step) + 1
        ours.forward(x, training=True)
        theirs(x.reshape(-1, shape[-1]))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.var, theirs.running_var)
    torch.testing.assert_close(ours.forward(x), theirs.eval()(x.reshape(-1, shape[-1])).reshape(shape))


def test_far_from_zero_float32_keeps_its_digits():
    """The variance as E[x²] - E[x]² would lose them all here."""
    x = (oracle.numbers((64, 4)) + 3000).float()
    y = oracle.prepare(BatchNorm(4), dtype=torch.float32).forward(x, training=True)
    layer = oracle.prepare(BatchNorm(4))
    torch.testing.assert_close(y.double(), layer.forward(x.double(), training=True), atol=1e-3, rtol=1e-3)


def test_a_single_row_is_refused():
    with pytest.raises(ValueError, match="BatchNorm cannot train on a single row"):
        oracle.prepare(BatchNorm(3)).forward(oracle.numbers((1, 3)), training=True)
