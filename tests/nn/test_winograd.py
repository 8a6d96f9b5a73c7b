from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.nn import winograd
from scene.nn.conv import Conv2d
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.oracle import torch_conv
from tests.strategies import images, seeds


@given(images(), st.integers(1, 6), st.booleans(), seeds)
def test_winograd_is_the_convolution_of_torch(shape, outputs, bias, seed):
    oracle.check(WinogradConv2d(shape[-1], outputs, bias), torch_conv(padding=1), shape, seed)


@given(st.sampled_from(sorted(winograd.POINTS)), seeds)
def test_matrices_compute_a_short_convolution(tile, seed):
    """y = Aᵀ [(G g) ⊙ (Bᵀ d)] is yᵢ = Σⱼ gⱼ dᵢ₊ⱼ."""
    bt, g, a = (torch.tensor(m, dtype=torch.float64) for m in winograd.cook_toom(tile))
    d, kernel = oracle.numbers((tile + 2,), seed), oracle.numbers((3,), seed + 1)
    torch.testing.assert_close(a.T @ ((g @ kernel) * (bt @ d)), (d.unfold(0, 3, 1) * kernel).sum(1))


def test_the_matrices_for_four_outputs_are_those_of_lavin_and_gray(monkeypatch):
    monkeypatch.setitem(winograd.POINTS, 4, (0, 1, -1, 2, -2))
    bt, g, a = winograd.cook_toom(4)
    assert bt[1] == [0, -4, -4, 1, 1, 0] and bt[5] == [0, 4, 0, -5, 0, 1]
    assert g[3] == [1 / 24, 1 / 12, 1 / 6] and a[4] == [1, -2, 4, -8]


@pytest.mark.parametrize("tile", winograd.POINTS)
def test_the_points_round_hardly_more_than_the_best_of_simple_fractions(tile, monkeypatch):
    def growth(points):
        monkeypatch.setitem(winograd.POINTS, tile, points)
        b, g, a = (torch.tensor(m, dtype=torch.float64) for m in winograd.cook_toom(tile))
        return (a.square().T @ (g.square().sum(1) * b.square().sum(1))).mean()

    fractions = [sign * size for size in (1/2, 5/8, 3/4, 1, 5/4, 3/2, 2) for sign in (1, -1)]
    ours = growth(winograd.POINTS[tile])
    assert ours <= 1.02 * min(growth((0, *points)) for points in combinations(fractions, tile))


@given(images(least=4), st.integers(1, 6), st.integers(1, 3), seeds)
def test_slices_of_a_batch_are_the_convolution_of_torch(shape, outputs, images_at_once, seed):
    _, h, w, inputs = shape
    layer = WinogradConv2d(inputs, outputs)
    tile = winograd.best_tile(7, h, w, inputs, outputs, winograd.TILES)
    x = oracle.numbers((7, h, w, inputs), seed)
    values = (tile + 2) ** 2 * winograd.tiles(h, tile) * winograd.tiles(w, tile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "SLICE_PER_U", 0)
        patch.setattr(winograd, "TILE_BYTES", images_at_once * 8 * values * max(inputs, outputs))
        u = oracle.numbers(((tile + 2) ** 2, 1))
        assert len(layer.parts(x, u, tile)) == -(-7 // images_at_once)          # 3, 4 or 7 slices
        oracle.check(layer, torch_conv(padding=1), x, seed)


def test_large_kernels_are_read_for_several_images_at_once():
    layer = WinogradConv2d(320, 320)
    x, u = torch.zeros(64, 8, 8, 320), torch.zeros(36, 320, 320)
    first, *_ = layer.parts(x, u, 4)
    assert 36 * 4 * 320 * (first.stop - first.start) >= 2 * u.numel() > winograd.TILE_BYTES
    assert [len(layer.parts(x[:1], u, 4)), len(layer.parts(x, u[:, :32, :32], 4))] == [1, 6]


SIDES = [(4, 4), (5, 5), (6, 6), (8, 4), (10, 5), (12, 6), (16, 4), (20, 5)]


@pytest.mark.parametrize(("side", "tile"), SIDES)
def test_tiles_fit_the_image(side, tile):
    assert winograd.best_tile(64, side, side, 64, 64) == tile


def test_only_training_in_bfloat16_keeps_to_small_tiles():
    layer, x = WinogradConv2d(64, 64), torch.zeros(64, 12, 12, 64)
    assert [layer.tile_for(x, training) for training in (True, False)] == [6, 6]
    layer.operands = torch.bfloat16
    assert [layer.tile_for(x, training) for training in (True, False)] == [4, 6]


def test_a_single_photo_has_smaller_tiles_if_there_are_many_kernels():
    """Most of the time goes into reading U: P² numbers for each pair of channels."""
    assert [winograd.best_tile(n, 10, 10, 128, 128) for n in (1, 2, 64)] == [2, 2, 5]
    assert winograd.best_tile(2, 20, 20, 64, 64) == 5


@given(st.sampled_from([(32, 32), (64, 128)]), st.sampled_from([(16, 6e-6), (18, 3e-5), (20, 3e-5)]), seeds)
@settings(max_examples=20)
def test_errors_in_float32_stay_small(channels, side_and_bound, seed):
    """Against im2col in float64, relative to the largest output."""
    inputs, outputs = channels
    side, bound = side_and_bound        # in tiles of 4, 6 and 5
    x = oracle.numbers((2, side, side, inputs), seed)
    exact = oracle.prepare(Conv2d(inputs, outputs, 3, padding=1), seed)
    fast = oracle.prepare(WinogradConv2d(inputs, outputs), dtype=torch.float32)
    fast.w, fast.b = exact.w.float(), exact.b.float()
    y, dy = exact.forward(x, training=True), oracle.numbers((2, side, side, outputs), seed + 1)
    dx = exact.backward(dy)
    fast_y = fast.forward(x.float(), training=True)
    fast_dx = fast.backward(dy.float())
    for ours, theirs in (fast_y, y), (fast_dx, dx), (fast.dw, exact.dw):
        assert (ours - theirs).abs().max() <= bound * theirs.abs().max()
