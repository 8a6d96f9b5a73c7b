import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from scene.nn import conv
from scene.nn.conv import Conv2d
from tests import oracle
from tests.oracle import torch_conv
from tests.strategies import images, seeds

strides = st.integers(1, 3)


@given(images(), st.integers(1, 6), st.integers(1, 5), strides, st.integers(0, 5), st.booleans(), seeds)
def test_conv_is_that_of_torch(shape, outputs, kernel, stride, padding, bias, seed):
    assume(min(shape[1:3]) + 2 * padding >= kernel)
    layer = Conv2d(shape[-1], outputs, kernel, stride, padding, bias)
    oracle.check(layer, torch_conv(stride, padding), shape, seed)


@given(st.integers(1, 7), seeds)
def test_parts_of_a_batch_make_the_whole(images_at_once, seed):
    layer = oracle.prepare(Conv2d(2, 3, 3, padding=1), seed)
    x = oracle.numbers((7, 5, 6, 2), seed)
    whole = layer.forward(x, training=True)
    dx = layer.backward(whole)
    dw = layer.dw.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "PATCH_BYTES", images_at_once * 8 * 5 * 6 * 9 * 2)
        assert len(layer.parts(x)) == -(-7 // images_at_once)
        torch.testing.assert_close(layer.forward(x, training=True), whole)
        torch.testing.assert_close(layer.backward(whole), dx)
        torch.testing.assert_close(layer.dw, dw)


def test_too_small_an_image_is_named():
    layer = oracle.prepare(Conv2d(1, 1, 5))
    with pytest.raises(ValueError, match="a kernel of 5 and padding 0 cannot work on an image of 4x9"):
        layer.forward(oracle.numbers((1, 4, 9, 1)))
    layer = oracle.prepare(Conv2d(1, 1, 5, padding=1))
    assert layer.forward(oracle.numbers((1, 3, 9, 1))).shape == (1, 1, 7, 1)
    with pytest.raises(ValueError, match="a kernel of 5 and padding 1 cannot work on an image of 9x2"):
        layer.forward(oracle.numbers((1, 9, 2, 1)))
