import re

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
    """Random floats never tie; rounded to whole numbers, many do."""
    assume(min(shape[1:3]) >= kernel)
    x = oracle.numbers(shape, seed)

    def reference(x):
        return nhwc(F.max_pool2d(nchw(x), kernel, stride))

    oracle.check(MaxPool2d(kernel, stride), reference, x.round() if ties else x, seed)


@given(images(), seeds)
def test_global_average_pool_is_that_of_torch(shape, seed):
    def reference(x):
        return F.adaptive_avg_pool2d(nchw(x), 1).flatten(1)

    oracle.check(GlobalAveragePool(), reference, shape, seed)


def test_too_small_an_image_is_named():
    with pytest.raises(ValueError, match="MaxPool2d with a kernel of 3 cannot work on an image of 2x5"):
        MaxPool2d(3).forward(oracle.numbers((1, 2, 5, 1)))


@pytest.mark.parametrize("layer", [MaxPool2d(2), GlobalAveragePool()], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_anything_but_images_is_refused(layer, shape):
    message = f"{type(layer).__name__} takes an array of shape (any, any, any, any), not {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        layer.forward(oracle.numbers(shape))
