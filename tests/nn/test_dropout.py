import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene.nn.dropout import Dropout
from tests import oracle
from tests.strategies import images, seeds


@given(images(), st.sampled_from([0.25, 0.5, 0.9]), seeds)
def test_backward_goes_through_the_same_mask(shape, rate, seed):
    layer = Dropout(rate)
    oracle.check(layer, lambda x: x * layer.mask, shape, seed, evaluation=False)
    assert set(layer.mask.unique().tolist()) <= {0, 1 / (1 - rate)}


@given(images(), seeds)
def test_a_rate_of_0_drops_nothing(shape, seed):
    oracle.check(Dropout(0.0), lambda x: x, shape, seed)


def test_a_rate_of_0_draws_no_random_numbers():
    layer = oracle.prepare(Dropout(0.0))
    before = layer.generator.get_state()
    layer.forward(torch.ones(9), training=True)
    assert torch.equal(layer.generator.get_state(), before)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_right_share_is_dropped_and_the_mean_kept(rate):
    layer = oracle.prepare(Dropout(rate))
    y = layer.forward(torch.ones(200_000), training=True)
    assert abs((y == 0).float().mean() - rate) < 0.005
    assert abs(y.mean() - 1) < 0.02


def test_evaluation_drops_nothing():
    x = oracle.numbers((3, 4))
    assert torch.equal(Dropout(0.5).forward(x), x)


def test_masks_differ_between_steps():
    layer = oracle.prepare(Dropout(0.5))
    x = torch.ones(100)
    assert not torch.equal(layer.forward(x, training=True).clone(), layer.forward(x, training=True))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match="at least 0 and less than 1"):
        Dropout(rate)
