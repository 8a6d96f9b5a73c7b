import torch
from hypothesis import given

from scene.nn.layer import Network
from scene.nn.normalize import Normalize
from tests import oracle
from tests.strategies import images, seeds


@given(images(), seeds)
def test_normalize_is_its_formula(shape, seed):
    layer = Normalize(shape[-1])
    oracle.check(layer, lambda x: (x - layer.mean) / layer.std, shape, seed)


@given(images(), seeds)
def test_fit_gives_mean_0_and_deviation_1(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (50, *shape[1:3], 3), generator=generator, dtype=torch.uint8)
    layer = oracle.prepare(Normalize(), dtype=torch.float32)
    layer.fit(pixels)
    y = layer.forward(pixels)
    assert y.dtype == torch.float32
    mean = y.double().mean((0, 1, 2))
    std = y.double().std((0, 1, 2), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3).double(), atol=1e-4, rtol=0)


def test_before_fit_it_has_the_mean_and_deviation_of_0_to_255_equally_often():
    every = torch.arange(256, dtype=torch.float64)
    layer = Network(Normalize()).start(torch.Generator(), dtype=torch.float64).layers[0]
    torch.testing.assert_close(layer.mean, every.mean().expand(3))
    torch.testing.assert_close(layer.std, every.std(correction=0).expand(3), atol=0.01, rtol=0)


def test_fit_survives_photos_of_one_colour():
    layer = oracle.prepare(Normalize(), dtype=torch.float32)
    layer.fit(torch.full((2, 4, 4, 3), 7, dtype=torch.uint8))
    assert layer.std.tolist() == [1, 1, 1]
    assert layer.forward(torch.full((2, 4, 4, 3), 7, dtype=torch.uint8)).abs().max() == 0
