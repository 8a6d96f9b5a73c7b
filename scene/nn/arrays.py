"""The few things torch and NumPy spell differently.

A layer's forward pass in evaluation is written once and runs on both libraries. Most operations have the same name and
arguments in both (`xp.exp(x)`, `xp.amax(x, 1)`, `xp.maximum(a, b)`, `xp.matmul(a, b, out=c)`), so a layer asks for the
library of the array it was given and goes on; the rest is here. Neither library is imported: where a model only predicts there may be
no torch. A backward pass is torch's alone; it too asks for the library, and so gets at torch without an import.

Next: layer.py
"""

import sys


def library(x):
    """The module that x's type comes from, torch or numpy, by convention called `xp`."""
    return sys.modules[type(x).__module__.partition(".")[0]]


def empty(shape, like):
    """An uninitialised array of this shape, of like's library, dtype and device."""
    return like.new_empty(shape) if hasattr(like, "new_empty") else library(like).empty(shape, like.dtype)


def zeros(shape, like):
    """An array of zeros of this shape, of like's library, dtype and device."""
    return like.new_zeros(shape) if hasattr(like, "new_zeros") else library(like).zeros(shape, like.dtype)


def cast(x, like):
    """x with like's dtype (pixels are uint8, parameters float32); x itself if it has it already."""
    return x.to(like.dtype) if hasattr(x, "to") else x.astype(like.dtype, copy=False)


def flip(x, axis):
    """x backwards along one axis (torch has no `[::-1]`)."""
    return library(x).flip(x, (axis,))


def adopt(x, like):
    """x as an array of like's library, on its device, with x's own dtype."""
    return library(like).asarray(x, device=like.device)


def as_numpy(x):
    """x as a NumPy array."""
    return x.numpy(force=True) if hasattr(x, "numpy") else x


def windows(x, size, stride):
    """Every window of size x size pixels, a stride apart, as a view: (N, H, W, C) -> (N, H', W', size, size·C).

    Neighbouring pixels lie side by side in memory, so a row of a window is a run of size·C numbers; nothing is copied.
    """
    n, h, w, c = x.shape
    shape = n, (h - size) // stride + 1, (w - size) // stride + 1, size, size * c
    strides = h * w * c, stride * w * c, stride * c, w * c, 1
    if hasattr(x, "as_strided"):
        return x.contiguous().as_strided(shape, strides)
    xp = library(x)
    x = xp.ascontiguousarray(x)
    return xp.lib.stride_tricks.as_strided(x, shape, [x.itemsize * step for step in strides])
