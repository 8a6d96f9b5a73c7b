import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from scene.nn.loss import CrossEntropy, MeanSquaredError, softmax
from tests import oracle
from tests.strategies import seeds

photos, classes = st.integers(1, 9), st.integers(2, 12)


def assert_same(loss, reference, n, k, seed, soft=False):
    z = (oracle.numbers((n, k), seed) * 3).requires_grad_()
    labels = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    if soft:
        labels = oracle.numbers((n, k), seed + 1).softmax(1)
    value = reference(z, labels)
    torch.testing.assert_close(loss.forward(z.detach(), labels), value.detach())
    torch.testing.assert_close(loss.backward(), torch.autograd.grad(value, z)[0])


@given(photos, classes, st.sampled_from([0.0, 0.1, 0.5]), seeds, st.booleans())
def test_cross_entropy_is_that_of_torch(n, k, smoothing, seed, soft):
    def reference(z, t):
        return F.cross_entropy(z, t, label_smoothing=smoothing)

    assert_same(CrossEntropy(smoothing), reference, n, k, seed, soft)


@given(photos, classes, seeds, st.booleans())
def test_mean_squared_error_is_that_of_torch(n, k, seed, soft):
    def reference(z, t):        # torch.nn's mean is over N·K numbers, ours over N photos
        return k * F.mse_loss(z.softmax(1), t if soft else F.one_hot(t, k).to(z))

    assert_same(MeanSquaredError(), reference, n, k, seed, soft)


@given(photos, classes, seeds)
def test_softmax_on_torch_and_on_numpy(n, k, seed):
    z = oracle.numbers((n, k), seed, torch.float32) * 1000          # exp would overflow
    p = softmax(z)
    torch.testing.assert_close(p, z.softmax(1))
    ours = softmax(z.numpy())
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, p.numpy(), atol=1e-6)


def test_cross_entropy_of_a_confident_wrong_answer_is_finite():
    loss = CrossEntropy()
    assert loss.forward(torch.tensor([[0.0, 10_000.0]]), torch.tensor([0])) == 10_000
    assert loss.backward().tolist() == [[-1, 1]]


@given(st.integers(2, 200), st.floats(0, 0.9))
def test_the_least_loss_is_reached_where_p_is_q(classes, smoothing):
    loss = CrossEntropy(smoothing)
    q = torch.full((classes,), smoothing / classes, dtype=torch.float64)
    q[0] += 1 - smoothing
    z = q.clip(1e-300).log()[None]
    assert loss.forward(z, torch.tensor([0])).item() == pytest.approx(loss.least(classes), abs=1e-9)
    assert loss.backward().abs().max() < 1e-9


def test_the_least_squared_error_is_0():
    assert MeanSquaredError().least(5) == 0
