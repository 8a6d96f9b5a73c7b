"""Random variations of training photos, drawn anew for every batch: mirrored, cropped, grey, relit.

A network that never sees the same picture twice has to learn the features that its versions share. Everything
works on whole batches, in float: in uint8, 250 + 20 would overflow to 14.

Next: optim.py
"""

import math
from functools import cache

import torch

LIGHT = 0.1         # brightness and contrast vary by ± this. More would hide colours that tell scenes apart
LUMA = 0.299, 0.587, 0.114


def augment(photos, size, area, grey, generator):
    """Random views of some photos for training: each one cropped, mirrored half of the time, and relit.

    photos: uint8 (N, H, W, 3), in random order -> float (N, size, size, 3), 0…255. A crop keeps a share of
    the photo drawn from area…1. About a share `grey` of the photos lose their colours, before relighting
    tints them a little.
    """
    return relight(fade(crop(photos, size, area, generator), grey), LIGHT, generator)


def uniform(low, high, shape, generator):
    """Numbers drawn uniformly from low…high, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def crop(photos, size, area, generator):
    """A random part of each photo, mirrored half of the time, resized to size x size by linear interpolation.

    A row of the result mixes a few rows of the photo, and a column a few columns: out = R photo Cᵀ for each
    colour, with R: (N, size, H) and C: (N, size, W). These are two batched matrix products. Their rows hold
    all of one colour, then all of the next.
    """
    n, h, w, c = photos.shape
    share = uniform(area, 1, n, generator)
    aspect = uniform(math.log(3 / 4), math.log(4 / 3), n, generator).exp()
    aspect = aspect.clip(share, 1 / share)                                      # so that the crop fits
    height, width = (share / aspect).sqrt(), (share * aspect).sqrt()
    top = uniform(0, 1, n, generator) * (1 - height)
    left = uniform(0, 1, n, generator) * (1 - width)
    mirrored = uniform(0, 1, n, generator) < 0.5
    left, width = torch.where(mirrored, left + width, left), torch.where(mirrored, -width, width)
    planes = photos.float().transpose(2, 3).reshape(n, h, c * w)                # (N, H, W, C) -> (N, H, C·W)
    tall = interpolation(top, height, h, size) @ planes                         # -> (N, size, C·W)
    across = interpolation(left, width, w, size).transpose(1, 2)                # (N, W, size)
    both = tall.reshape(n, size * c, w) @ across                                # -> (N, size·C, size)
    return both.reshape(n, size, c, size).transpose(2, 3).contiguous()          # -> (N, size, size, C)


def interpolation(start, extent, source, size):
    """Matrices that resample `source` rows to `size`: row i comes from start + (i + ½)/size · extent, 0…1.

    start, extent: (N,) -> (N, size, source). When enlarging, each row mixes its two neighbours. When
    shrinking, the triangle of weights widens, so that fine detail does not alias. The weights of a row add up
    to 1.
    """
    pixel = torch.arange(source, device=start.device)
    share = (torch.arange(size, device=start.device) + 0.5) / size
    centre = (start[:, None] + share * extent[:, None]) * source - 0.5          # (N, size)
    reach = (extent.abs() * source / size).clip(min=1)[:, None, None]
    weights = (1 - (centre[:, :, None] - pixel).abs() / reach).clip(min=0)      # (N, size, source)
    return weights / weights.sum(2, keepdim=True)


def fade(photos, share):
    """Turns the first `share` of the photos grey: every colour becomes the luma 0.299 R + 0.587 G + 0.114 B.

    photos: float (N, H, W, 3) -> the same shape. Features learned without colour help on all photos.
    Source: ITU-R, BT.601 (2011), §2.5.1, for the luma; Chen et al., A Simple Framework for Contrastive
    Learning (2020), App. A, for grey photos.
    """
    few = round(share * len(photos))
    photos = photos.clone()
    luma = photos[:few] @ luma_weights(photos.device)                           # (n, H, W, 3) -> (n, H, W)
    photos[:few] = luma[..., None]
    return photos


@cache
def luma_weights(device):
    """The weights of the luma, (3,), copied to a device once: a CUDA graph allows no copy from the CPU."""
    return torch.tensor(LUMA, device=device)


def relight(photos, strength, generator):
    """Changes the light: y = b (m + a (x - m)), with contrast a around the photo's mean m, and brightness b.

    photos: float (N, H, W, 3) -> the same shape, 0…255. Contrast and brightness vary by ± strength. On top of
    that, each colour's brightness varies by half as much.
    """
    n, h, w, c = photos.shape
    contrast = 1 + uniform(-strength, strength, (n, 1), generator)
    brightness = 1 + uniform(-strength, strength, (n, 1), generator)
    brightness = brightness * (1 + uniform(-strength, strength, (n, c), generator) / 2)     # -> (n, c)
    mean = photos.mean((1, 2, 3))[:, None]
    gain, shift = brightness * contrast, brightness * (1 - contrast) * mean     # y = gain x + shift
    rows = photos.reshape(n, h, w * c)                                          # whole rows at once: faster
    y = torch.addcmul(shift.repeat(1, w)[:, None], rows, gain.repeat(1, w)[:, None])
    return y.clip_(0, 255).reshape(n, h, w, c)
