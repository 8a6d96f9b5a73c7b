import pytest
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from scene.nn.pool import GlobalAveragePool, MaxPool2d
from tests import oracle
from tests.oracle import nchw, nhwc
from tests.strategies import images, seeds


@given(images(), st.integers(1, 4), st.integers(1, 4), st.booleans(), seeds)
def test_max_pool_is_that_of_torch(shape, kernel, stride, ties, seed):
    """With ties: whole numbers of which many are equal. Random floats never are."""
    assume(min(shape[1:3]) >= kernel)
    x = oracle.numbers(shape, seed)
    oracle.check(MaxPool2d(kernel, stride), lambda x: nhwc(F.max_pool2d(nchw(x), kernel, stride)), x.round() if ties else x, seed)


@given(images(), seeds)
def test_global_average_pool_is_that_of_torch(shape, seed):
    oracle.check(GlobalAveragePool(), lambda x: F.adaptive_avg_pool2d(nchw(x), 1).flatten(1), shape, seed)


def test_too_small_an_image_is_named():
    with pytest.raises(ValueError, match="MaxPool2d with a kernel of 3 cannot work on an image of 2x5"):
        MaxPool2d(3).forward(oracle.numbers((1, 2, 5, 1)))
