"""The few operations that torch and NumPy spell differently.

A layer's forward pass in evaluation is written once and runs on both libraries. Most operations have the same
name and arguments in both (`xp.exp(x)`, `xp.amax(x, 1)`, `xp.maximum(a, b)`, `xp.matmul(a, b, out=c)`), so a
layer calls them on the library of its input, `xp = library(x)`. This file covers the rest. It imports neither
library, because a machine that only predicts may have no torch. A backward pass runs on torch alone, and it
gets torch from `library` too.

Next: normalize.py
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
    """x in like's dtype (pixels are uint8, parameters float32). Copies only if the dtypes differ."""
    return x.to(like.dtype) if hasattr(x, "to") else x.astype(like.dtype, copy=False)


def multiply(a, b, out):
    """out = a @ b. Where out has another dtype, the product is computed in a's, then converted."""
    if out.dtype == a.dtype:
        library(a).matmul(a, b, out=out)
    else:
        out[...] = a @ b


def add_product(a, b, out):
    """out += a @ b, for matrices of torch or stacks of them. The sum is in out's dtype, whatever a's is."""
    if out.dtype == a.dtype:
        (out.addmm_ if out.ndim == 2 else out.baddbmm_)(a, b)
    else:
        out += a @ b


def flip(x, axis):
    """A copy of x, reversed along one axis (torch has no `[::-1]`, and NumPy is slow to copy its view)."""
    if hasattr(x, "flip"):
        return x.flip(axis)
    return x.take(library(x).arange(x.shape[axis])[::-1], axis)


def adopt(x, like):
    """x as an array of like's library, on like's device, in x's own dtype."""
    return library(like).asarray(x, device=like.device)


def as_numpy(x):
    """x as a NumPy array."""
    return x.numpy(force=True) if hasattr(x, "numpy") else x


def windows(x, size, stride):
    """Every window of size x size pixels, `stride` pixels apart: (N, H, W, C) -> (N, H', W', size, size·C).

    A view: pixels of a row are adjacent in memory, so a row of a window is a run of size·C numbers. Only an x
    that is not contiguous is copied.

    >>> x = torch.arange(1, 10).reshape(1, 3, 3, 1)             # 1 2 3 / 4 5 6 / 7 8 9
    >>> windows(x, 2, 1).reshape(4, 4).tolist()                 # each window as a row
    [[1, 2, 4, 5], [2, 3, 5, 6], [4, 5, 7, 8], [5, 6, 8, 9]]
    """
    n, h, w, c = x.shape
    shape = n, (h - size) // stride + 1, (w - size) // stride + 1, size, size * c
    strides = h * w * c, stride * w * c, stride * c, w * c, 1
    if hasattr(x, "as_strided"):
        return x.contiguous().as_strided(shape, strides)
    xp = library(x)
    x = xp.ascontiguousarray(x)
    return xp.lib.stride_tricks.as_strided(x, shape, [x.itemsize * step for step in strides])


def copy_runs(view):
    """A contiguous copy of `windows`, in half the time that it takes number by number.

    NumPy copies each run of size·C numbers as one item, and torch a row of all windows at a time.
    """
    if hasattr(view, "new_empty"):
        copy = view.new_empty(view.shape)
        for i in range(view.shape[3]):
            copy[:, :, :, i] = view[:, :, :, i]
        return copy
    run = f"V{view.itemsize * view.shape[-1]}"      # a type whose items are whole runs, of so many bytes
    return library(view).ascontiguousarray(view.view(run)).view(view.dtype)
