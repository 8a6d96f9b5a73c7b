"""The 3x3 convolution with fewer multiplications.

One dimension first. Four neighbouring outputs of a kernel g = (g₀, g₁, g₂) over six inputs d₀…d₅ take 4 · 3 = 12 multiplications.
But turned about they are coefficients of a product of polynomials, and a polynomial of degree 5 is known by its values at six points. So:
evaluate both at 0, 1, -1, 2, -2 and ∞, multiply the six values, and interpolate:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]         6 multiplications; 7 for five outputs, with ½ as well, and 8 for six, with -½ too

A line of L pixels is cut into R tiles of so many outputs, whose inputs overlap by two pixels. For all of its tiles at once Bᵀ is a matrix
with a band of numbers, (P·R, L), and Aᵀ one with blocks, (L, P·R), for P points. What lies beyond the edge has no column: that is the
padding.

In two dimensions an image is transformed along its width and along its height, so each tile has a value for every pair of points:

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A      36 multiplications for 4x4 outputs, in place of 144; 64 for 6x6, in place of 324

The ⊙ sums over input channels: for each pair of points it is a matrix product over all tiles of a batch, (T, C) @ (C, O). So everything
is a matrix product. The price is rounding: in float32 an error of about 1e-5 of the largest output, where im2col has 4e-7.

Source: Winograd, Arithmetic Complexity of Computations (1980); Lavin, Gray, Fast Algorithms for Convolutional Neural Networks (2015), §4;
for the matrices of any points: Blahut, Fast Algorithms for Signal Processing (2010), §5.2 (Cook, Toom).
Next: pool.py
"""

from functools import cache
from math import prod

from scene.nn.arrays import empty, library
from scene.nn.conv import Conv2d

POINTS = 0, 1, -1, 2, -2, 1 / 2, -1 / 2     # small numbers, for small rounding; and ∞
TILES = 2, 4, 5, 6          # outputs of a tile, along one axis
READING = 24                # to read a number of U takes about as long as so many multiplications: what counts for a single photo
TILE_NUMBERS = 1 << 19      # transformed numbers worked on at once, 2 MB of float32; a quarter or twice as many take as long


class WinogradConv2d(Conv2d):
    """Conv2d with a kernel of 3, a stride of 1 and a padding of 1, computed as above. Parameters and shapes are Conv2d's.

    With U: (P², O, C) the transformed kernels, V: (P², T, C) the transformed images, and p a pair of points,
        M[p] = V[p] U[p]ᵀ,    and Y is Aᵀ along both axes of M.
    Each step is linear, so going back takes the transposed matrices in reverse order:
        dM is A along both axes of dY    dU[p] = dM[p]ᵀ V[p]    dV[p] = dM[p] U[p]    dX is B along both axes of dV
    V is kept from the forward pass.
    """

    def __init__(self, inputs, outputs, bias=True):
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.inputs)
        tile = best_tile(*x.shape[:3], self.inputs, self.outputs)
        (bh, ah), (bw, aw) = (bands(side, tile, x) for side in x.shape[1:3])
        u, bias = self.kernels(tile, training)
        y = images((*x.shape[:3], self.outputs), x)
        if training:
            self.x_shape, self.u, self.v = x.shape, u, []
        for part in self.parts(y, tile):
            v = spread(x[part], bh, bw, tile + 2)                               # (n, H, W, C) -> (P², T, C)
            m = v @ u                                                           # (P², T, C) @ (P², C, O) -> (P², T, O)
            if bias is not None:
                m[tile + 3] += bias         # the pair of points 1 and 1: Aᵀ adds its value to every output of a tile
            gather(m, ah, aw, tile + 2, y[part])                                # (P², T, O) -> (n, H, W, O)
            if training:
                self.v.append(v)
        return y

    def backward(self, dy):
        tile = best_tile(*dy.shape[:3], self.inputs, self.outputs)
        (bh, ah), (bw, aw) = (bands(side, tile, dy) for side in dy.shape[1:3])
        dx = images(self.x_shape, dy) if self.needs_dx else None
        u = self.u.swapaxes(1, 2)                                               # (P², C, O) -> (P², O, C)
        du = u.new_zeros(u.shape)
        for part, v in zip(self.parts(dy, tile), self.v, strict=True):
            dm = spread(dy[part], ah.T, aw.T, tile + 2)                         # (n, H, W, O) -> (P², T, O)
            du.baddbmm_(dm.swapaxes(1, 2), v)                                   # (P², O, C) += (P², O, T) @ (P², T, C)
            if dx is not None:
                gather(dm @ u, bh.T, bw.T, tile + 2, dx[part])                  # (P², T, O) @ (P², O, C) -> … -> (n, H, W, C)
        dw = kernel_matrix(tile, dy).T @ du.reshape(len(du), -1)                # (9, P²) @ (P², O·C) -> (9, O·C)
        self.dw.copy_(dw.reshape(3, 3, self.outputs, self.inputs).moveaxis(2, 0))
        if "b" in self.parameters:
            library(dy).sum(dy, (0, 1, 2), out=self.db)
        return dx

    def freeze(self, before=None):
        super().freeze(before)
        self.ready = {}

    def kernels(self, tile, training):
        """Uᵀ: (P², C, O) and the bias, None if there is none; in evaluation after `freeze` worked out once for each size of tile."""
        w, bias = self.weights(training)
        if self.frozen is None or training:
            return transform(w, tile), bias
        if tile not in self.ready:
            u = transform(w, tile)
            ready = empty(u.shape, u)
            ready[...] = u                  # laid out anew, as NumPy's matrix library likes it
            self.ready[tile] = ready
        return self.ready[tile], bias

    def parts(self, y, tile):
        """The batch in slices of a few images, as many as TILE_NUMBERS allows."""
        n, h, w, _ = y.shape
        step = max(1, TILE_NUMBERS // ((tile + 2) ** 2 * count(h, tile) * count(w, tile) * max(self.inputs, self.outputs)))
        return [slice(i, i + step) for i in range(0, n, step)]


def transform(w, tile):
    """G g Gᵀ for each pair of channels: (O, 3, 3, C) -> (P², C, O), Uᵀ, as a view of U, (P², O, C)."""
    outputs, *_, inputs = w.shape
    rows = library(w).moveaxis(w.reshape(outputs, 9, inputs), 1, 0).reshape(9, -1)                  # (O, 3, 3, C) -> (9, O·C)
    return (kernel_matrix(tile, w) @ rows).reshape(-1, outputs, inputs).swapaxes(1, 2)              # (P², 9) @ (9, O·C) -> (P², C, O)


def images(shape, like):
    """An uninitialised batch of images, (N, H, W, C), that lies in memory as (H, W, N, C): so `spread` finds its rows as they are."""
    n, h, w, c = shape
    return empty((h, w, n, c), like).swapaxes(1, 2).swapaxes(0, 1)


def spread(x, down, across, points):
    """Images, transformed along both axes: (n, H, W, C) -> (P², T, C), T = R·R'·n.   down: (P·R, H), across: (P·R', W)."""
    n, h, w, c = x.shape
    rows = x.swapaxes(0, 1).swapaxes(1, 2).reshape(h, w, n * c)                 # (n, H, W, C) -> (H, W, n·C)
    wide = (across[None] @ rows).reshape(h, points, -1)                         # (P·R', W) @ (W, n·C) -> (H, P, R'·n·C)
    tall = down[None] @ wide.swapaxes(0, 1)                                     # (P·R, H) @ (H, R'·n·C) -> (P, P·R, R'·n·C)
    return tall.reshape(points ** 2, -1, c)


def gather(m, down, across, points, y):
    """The way back, into y as `images` makes it: (P², T, O) -> (n, H, W, O).   down: (H, P·R), across: (W, P·R')."""
    matmul, (n, h, w, o) = library(m).matmul, y.shape
    tall = m.reshape(points, down.shape[1], -1)                                 # (P², T, O) -> (P, P·R, R'·n·O)
    wide = empty((h, points, tall.shape[2]), m)
    matmul(down[None], tall, out=wide.swapaxes(0, 1))                           # (H, P·R) @ (P·R, R'·n·O) -> (P, H, R'·n·O)
    rows = wide.reshape(h, across.shape[1], -1)                                 # (H, P, R'·n·O) -> (H, P·R', n·O)
    image = y.swapaxes(0, 1).swapaxes(1, 2).reshape(h, w, n * o)                # a view
    matmul(across[None], rows, out=image)                                       # (W, P·R') @ (P·R', n·O) -> (H, W, n·O)


@cache
def best_tile(n, h, w, inputs, outputs):
    """The size of tile that takes the least for n images of h x w pixels, in multiplications and what reading U costs."""
    def cost(tile):
        p, rows, columns = tile + 2, count(h, tile), count(w, tile)
        axes = p * columns * h * (w + p * rows)
        return p * p * (n * rows * columns + READING) * inputs * outputs + n * axes * (inputs + outputs)

    return min(TILES, key=cost)


def count(length, tile):
    """How many tiles cover this many pixels."""
    return -(-length // tile)


def cook_toom(tile):
    """Bᵀ: (P, P), G: (P, 3) and A: (P, tile), each a row for every point, as lists."""
    points = POINTS[:tile + 1]
    b, g, a = [], [], []
    for point in points:
        others = [other for other in points if other != point]
        b.append([*polynomial(others), 0])
        g.append([point ** i / prod(point - other for other in others) for i in range(3)])
        a.append([point ** i for i in range(tile)])
    return [*b, polynomial(points)], [*g, [0, 0, 1]], [*a, [0] * (tile - 1) + [1]]      # the last rows are ∞'s


def polynomial(roots):
    """The coefficients of Π (x - root), from x⁰ up."""
    coefficients = [1]
    for root in roots:
        coefficients = [below - root * here for below, here in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


MATRICES = {}


def bands(length, tile, like):
    """Bᵀ: (P·R, length) and Aᵀ: (length, P·R) for all R tiles of a line, as arrays like `like`.

    Row k·R + r of Bᵀ is point k's of tile r, which begins one pixel before the tile's first output.
    """
    xp = library(like)
    key = length, tile, xp, like.dtype, like.device
    if key not in MATRICES:
        b, _, a = cook_toom(tile)
        places = [(k, r * tile) for k in range(tile + 2) for r in range(count(length, tile))]
        bt = [[b[k][i - start + 1] if 0 <= i - start + 1 < tile + 2 else 0 for i in range(length)] for k, start in places]
        at = [[a[k][i - start] if 0 <= i - start < tile else 0 for k, start in places] for i in range(length)]
        MATRICES[key] = tuple(xp.asarray(m, dtype=like.dtype, device=like.device) for m in (bt, at))
    return MATRICES[key]


def kernel_matrix(tile, like):
    """The transform of a whole kernel: (P², 9), with the points of the width first, as `spread` has them."""
    xp = library(like)
    key = tile, xp, like.dtype, like.device
    if key not in MATRICES:
        _, g, _ = cook_toom(tile)
        both = [[gj[v] * gi[u] for u in range(3) for v in range(3)] for gj in g for gi in g]
        MATRICES[key] = xp.asarray(both, dtype=like.dtype, device=like.device)
    return MATRICES[key]
