"""Variations of training photos, drawn anew for every batch: mirrored, cropped, in another light.

A network that never sees the same picture twice has to learn what they share. All of it works on whole batches, in float:
in uint8 250 + 20 would be 14.

Next: optim.py
"""

import math

import torch


def augment(photos, generator, area=0.5, light=0.2):
    """Training's view of some photos: each one cropped at random, mirrored half of the time, and in another light.

    photos: uint8 (N, H, W, 3) -> float (N, H, W, 3), 0…255.   A crop keeps a share of the picture drawn from area…1.
    """
    return relight(crop(photos, area, generator), light, generator)


def uniform(low, high, shape, generator):
    """Numbers drawn evenly from low…high, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def crop(photos, area, generator):
    """A random part of each photo, mirrored half of the time and stretched back to full size, by linear interpolation.

    Every row of the result mixes two rows of the photo, and every column two columns: two matrix products,
    out = R · photo · Cᵀ, with R: (N, H, H) and C: (N, W, W).
    """
    n, h, w, c = photos.shape
    share = uniform(area, 1, n, generator)
    aspect = uniform(math.log(3 / 4), math.log(4 / 3), n, generator).exp()
    height, width = (share / aspect).sqrt().clip(max=1), (share * aspect).sqrt().clip(max=1)
    top = uniform(0, 1, n, generator) * (1 - height)
    left = uniform(0, 1, n, generator) * (1 - width)
    mirrored = uniform(0, 1, n, generator) < 0.5
    left, width = torch.where(mirrored, left + width, left), torch.where(mirrored, -width, width)
    tall = interpolation(top, height, h) @ photos.float().reshape(n, h, w * c)                       # -> (N, H, W·C)
    wide = tall.reshape(n, h, w, c).transpose(1, 2).reshape(n, w, h * c)                             # -> (N, W, H·C)
    return (interpolation(left, width, w) @ wide).reshape(n, w, h, c).transpose(1, 2).contiguous()   # -> (N, H, W, C)


def interpolation(start, extent, size):
    """Matrices that resample rows: row i of the result lies at start + (i + ½)/size · extent, as a share of the photo.

    start, extent: (N,) -> (N, size, size), each row with two neighbouring weights that add up to 1.
    """
    pixel = torch.arange(size, device=start.device)
    centre = (start[:, None] + (pixel + 0.5) / size * extent[:, None]) * size - 0.5                  # (N, size)
    centre = centre.clip(0, size - 1)
    return (1 - (centre[:, :, None] - pixel).abs()).clip(min=0)                                      # (N, size, size)


def relight(photos, strength, generator):
    """Other light: brightness, contrast and the strength of each colour, each drawn within ± strength (colours half of it).

    photos: float (N, H, W, 3) -> the same shape, 0…255.
    """
    n, h, w, c = photos.shape
    contrast = 1 + uniform(-strength, strength, (n, 1), generator)
    gain = contrast * (1 + uniform(-strength, strength, (n, 1), generator)) * (1 + uniform(-strength, strength, (n, c), generator) / 2)
    mean = photos.mean((1, 2, 3))[:, None]
    shift = mean * gain / contrast - mean * gain
    rows = photos.reshape(n, h, w * c)
    return (rows * gain.repeat(1, w)[:, None] + shift.repeat(1, w)[:, None]).clip_(0, 255).reshape(n, h, w, c)
