"""The trial of the lesson "winograd": the learner's matrices, alone and in Scene's WinogradConv2d."""

from contextlib import contextmanager

import numpy as np
import torch

from scene.nn import winograd
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.lessons.watch import Mistake
from tests.oracle import assert_close, numbers


def try_winograd(theirs, seen, case):
    tile, roots, shape, outputs, seed = case
    wanted = torch.from_numpy(np.polynomial.polynomial.polyfromroots(roots) + 0.0)
    seen.note(roots=torch.tensor(roots, dtype=torch.float64))
    found = as_array(theirs.polynomial(list(roots)), f"polynomial({list(roots)})")
    assert_close("polynomial(roots)", found, wanted)

    seen.clear()
    bt, g, a = matrices(theirs, tile)
    d, kernel = numbers((tile + 2,), seed), numbers((3,), seed + 1)
    seen.note(**{"Bᵀ": bt, "G": g, "A": a, "g, the kernel": kernel, "d, the inputs": d})
    direct = (d.unfold(0, 3, 1) * kernel).sum(1)
    assert_close(f"Aᵀ [(G g) ⊙ (Bᵀ d)] of F({tile}, 3)", a.T @ ((g @ kernel) * (bt @ d)), direct)

    with in_their_place(theirs, tile):
        seen.note(**{"x of WinogradConv2d": numbers(shape, seed)})
        layer = WinogradConv2d(shape[-1], outputs, bias=False)
        oracle.check(layer, oracle.torch_conv(padding=1), shape, seed)


def as_array(result, name):
    """A list of numbers, or of rows of numbers, as an array."""
    try:
        return torch.tensor(result, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = "a list of numbers, or of rows of equal length"
        raise Mistake(f"{name} must be {wanted}, not {result}.") from error


def matrices(theirs, tile):
    """The learner's three matrices, of the right shapes."""
    found = theirs.cook_toom(tile)
    if not isinstance(found, (tuple, list)) or len(found) != 3:
        raise Mistake("cook_toom must return three matrices: return Bᵀ, G, A.")
    p = tile + 2
    shapes = {"Bᵀ": (p, p), "G": (p, 3), "A": (p, tile)}
    arrays = [as_array(matrix, f"{name} of cook_toom({tile})")
              for name, matrix in zip(shapes, found, strict=True)]
    for (name, shape), array in zip(shapes.items(), arrays, strict=True):
        if tuple(array.shape) != shape:
            raise Mistake(f"{name} of cook_toom({tile}) has the shape {tuple(array.shape)}, not {shape}.")
    return arrays


@contextmanager
def in_their_place(theirs, tile):
    """Puts the learner's matrices into Scene's WinogradConv2d, with tiles of this size, for a while."""
    changes = {"cook_toom": theirs.cook_toom, "MATRICES": {}, "best_tile": lambda *_: tile}
    before = {name: getattr(winograd, name) for name in changes}
    vars(winograd).update(changes)
    try:
        yield
    finally:
        vars(winograd).update(before)


def race_winograd(theirs):
    return lambda: [theirs.cook_toom(tile) for tile in winograd.TILES]
