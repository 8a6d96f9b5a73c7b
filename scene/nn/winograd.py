"""The 3x3 convolution with fewer multiplications.

First in one dimension. Four adjacent outputs of a kernel g = (g₀, g₁, g₂) over six inputs d₀…d₅ take
4 · 3 = 12 multiplications. The transpose of this computation is a product of two polynomials, of degree 5,
and six values determine such a polynomial. So evaluate both factors at five numbers and ∞, multiply the six
values, and interpolate. Transposed back:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]     6 multiplications; 7 for five outputs, with one point more; 8 for six

A line of L pixels is cut into R tiles, each with the same number of outputs. The inputs of adjacent tiles
overlap by two pixels. For all tiles of a line and P points Bᵀ is a banded matrix, (P·R, L), and Aᵀ a block
matrix, (L, P·R). Pixels beyond the edge have no column in Bᵀ, which is the same as padding with zeros.

In two dimensions an image is transformed along its width and along its height, so each tile has a value for
every pair of points:

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A      36 multiplications for 4x4 outputs, not 144; 64 for 6x6, not 324

The ⊙ sums over input channels: for each pair of points it is a matrix product over all tiles of a batch,
(T, C) @ (C, O). So everything is a matrix product.

The price is rounding. In float32 the largest error is 2e-6 of the largest output for tiles of 4 and 1e-5 for
tiles of 6, where im2col has 4e-7. With operands in bfloat16 (learn/precision.py) the error is 0.6 % of the
outputs' norm for tiles of 2, 1.2 % for 3 and 1.6 % for 4, where im2col has 0.3 %.

The points decide how large it is. In one dimension, for random g and d, the product for point k has a size,
and so an error, in proportion to |Gₖ| |Bₖ|, with the rows Gₖ of G and Bₖ of Bᵀ, and Aᵀ multiplies it by Aₖᵢ.
So the error of output i has a variance in proportion to Sᵢ = Σₖ (Aₖᵢ |Gₖ| |Bₖ|)². In two dimensions it is
Sᵢ Sⱼ, so the error itself is in proportion to the mean of Sᵢ. The points below keep that small, and the
entries of Aᵀ and Bᵀ are exact in bfloat16.

Source: Winograd, Arithmetic Complexity of Computations (1980); Lavin, Gray, Fast Algorithms for Convolutional
Neural Networks (2015), §4; for the matrices of any points: Blahut, Fast Algorithms for Signal Processing
(2010), §5.2 (Cook, Toom); for the choice of points: Barabasz et al., Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks (2020).

Next: pool.py
"""

from functools import cache
from math import prod

from scene.nn.arrays import add_product, cast, empty, library, multiply
from scene.nn.conv import Conv2d

POINTS = {                  # for each size of tile, besides ∞. Where 1 is used, it comes second: see forward
    2: (0, 1, -1),
    3: (0, 1, -1 / 2, -2),
    4: (0, 3 / 2, -3 / 2, 5 / 8, -5 / 8),
    5: (0, 1, 1 / 2, 2, -3 / 2, -3 / 4),
    6: (0, 1, -1, 1 / 2, -1 / 2, 2, -2),
}
TILES = 2, 4, 5, 6          # sizes of a tile: its outputs along one axis
NARROW_TILES = 2, 3, 4      # the sizes for operands in bfloat16, where larger ones would round too much
READING = 24                # multiplications in the time of reading a number of U; matters for few photos
TILE_BYTES = 1 << 21        # transformed numbers at a time; ¼ or twice as many are as fast
SLICE_PER_U = 2             # a slice is at least this many times as large as U, which every slice reads


class WinogradConv2d(Conv2d):
    """Conv2d with a kernel of 3, a stride of 1 and a padding of 1, and the same parameters and shapes.

    With U: (P², O, C) the transformed kernels, V: (P², T, C) the transformed images, and p a pair of points,
        M[p] = V[p] U[p]ᵀ,    and Y is Aᵀ along both axes of M.
    Each step is linear, so backward applies the transposed matrices in reverse order:
        dM is A along both axes of dY    dU[p] = dM[p]ᵀ V[p]    dV[p] = dM[p] U[p]
        dX is B along both axes of dV
    V is kept from the forward pass.

    >>> x = tensor([[1., 0.], [0., 10.]]).reshape(1, 2, 2, 1)
    >>> for layer in Conv2d(1, 1, 3, padding=1), WinogradConv2d(1, 1):
    ...     network = Network(layer).start(torch.Generator())
    ...     network.params[:] = torch.arange(1, 11)         # w = [[1, 2, 3], [4, 5, 6], [7, 8, 9]], b = 10
    ...     print(layer.forward(x).round().flatten().tolist())      # 5·1 + 9·10 + 10, …
    [105.0, 94.0, 72.0, 61.0]
    [105.0, 94.0, 72.0, 61.0]
    """

    def __init__(self, inputs, outputs, bias=True):
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.inputs)
        tile = self.tile_for(x, training)
        u = self.kernels(tile)
        if training:
            u = self.narrow(u)
            self.x_shape = x.shape
            self.u = u
            self.v = []
        (bh, ah), (bw, aw) = (bands(side, tile, u) for side in x.shape[1:3])
        y = images((*x.shape[:3], self.outputs), x)
        for part in self.parts(y, u, tile):
            v = spread(cast(x[part], u), bh, bw, tile + 2)      # (n, H, W, C) -> (P², T, C)
            m = v @ u                                       # (P², T, C) @ (P², C, O) -> (P², T, O)
            if "b" in self.parameters and POINTS[tile][1] == 1:
                m[tile + 3] += self.b       # the pair of points (1, 1): Aᵀ adds it to every output of a tile
            gather(m, ah, aw, tile + 2, y[part])            # (P², T, O) -> (n, H, W, O)
            if "b" in self.parameters and POINTS[tile][1] != 1:
                y[part] += self.b           # without the point 1, no pair does that
            if training:
                self.v.append(v)
        return y

    def backward(self, dy):
        if "b" in self.parameters:
            library(dy).sum(dy, (0, 1, 2), out=self.db)
        tile = self.tile_for(dy, training=True)
        (bh, ah), (bw, aw) = (bands(side, tile, self.u) for side in dy.shape[1:3])
        dx = images(self.x_shape, dy) if self.needs_dx else None
        u = self.u.swapaxes(1, 2)                           # (P², C, O) -> (P², O, C)
        du = self.w.new_zeros(u.shape)
        for part, v in zip(self.parts(dy, u, tile), self.v, strict=True):
            dm = spread(self.narrow(dy[part]), ah.T, aw.T, tile + 2)        # (n, H, W, O) -> (P², T, O)
            add_product(dm.swapaxes(1, 2), v, out=du)       # (P², O, C) += (P², O, T) @ (P², T, C)
            if dx is not None:
                # (P², T, O) @ (P², O, C) -> (P², T, C) -> (n, H, W, C)
                gather(dm @ u, bh.T, bw.T, tile + 2, dx[part])
        dw = kernel_matrix(tile, du).T @ du.reshape(len(du), -1)            # (9, P²) @ (P², O·C) -> (9, O·C)
        self.dw.copy_(dw.reshape(3, 3, self.outputs, self.inputs).moveaxis(2, 0))       # -> (O, 3, 3, C)
        return dx

    def tile_for(self, x, training):
        """The size of the tiles for a batch."""
        sizes = NARROW_TILES if training and self.operands else TILES
        return best_tile(*x.shape[:3], self.inputs, self.outputs, sizes)

    def kernels(self, tile):
        """Uᵀ, the kernels transformed for tiles of this size: (P², C, O)."""
        return transform(self.w, tile)

    def parts(self, y, u, tile):
        """The batch in slices of TILE_BYTES, or more if U is large, and of at least one image."""
        n, h, w, _ = y.shape
        values = len(u) * tiles(h, tile) * tiles(w, tile)               # of one channel of an image
        each = u.itemsize * values * max(self.inputs, self.outputs)     # bytes of an image
        step = max(1, max(TILE_BYTES, SLICE_PER_U * u.nbytes) // each)
        return [slice(i, i + step) for i in range(0, n, step)]


def transform(w, tile):
    """G g Gᵀ for each pair of channels: (O, 3, 3, C) -> (P², C, O), Uᵀ, as a view of U, (P², O, C)."""
    outputs, *_, inputs = w.shape
    rows = library(w).moveaxis(w.reshape(outputs, 9, inputs), 1, 0)     # (O, 3, 3, C) -> (9, O, C)
    u = kernel_matrix(tile, w) @ rows.reshape(9, -1)                    # (P², 9) @ (9, O·C) -> (P², O·C)
    return u.reshape(-1, outputs, inputs).swapaxes(1, 2)                # (P², O·C) -> (P², C, O)


def images(shape, like):
    """An uninitialised batch of images, (N, H, W, C), stored as (H, W, N, C) to save `spread` a copy."""
    n, h, w, c = shape
    return empty((h, w, n, c), like).swapaxes(1, 2).swapaxes(0, 1)


def spread(x, down, across, points):
    """Images transformed along both axes: (n, H, W, C) -> (P², T, C), T = R·R'·n.

    down: (P·R, H), across: (P·R', W).
    """
    n, h, w, c = x.shape
    rows = x.swapaxes(0, 1).swapaxes(1, 2).reshape(h, w, n * c)     # (n, H, W, C) -> (H, W, n·C)
    wide = across[None] @ rows                      # (P·R', W) @ (H, W, n·C) -> (H, P·R', n·C)
    wide = wide.reshape(h, points, -1)              # (H, P·R', n·C) -> (H, P, R'·n·C)
    tall = down[None] @ wide.swapaxes(0, 1)         # (P·R, H) @ (P, H, R'·n·C) -> (P, P·R, R'·n·C)
    return tall.reshape(points ** 2, -1, c)         # (P, P·R, R'·n·C) -> (P², T, C)


def gather(m, down, across, points, y):
    """Back to images, transformed along both axes, into a y from `images`: (P², T, O) -> (n, H, W, O).

    down: (H, P·R), across: (W, P·R').
    """
    n, h, w, o = y.shape
    tall = m.reshape(points, down.shape[1], -1)     # (P², T, O) -> (P, P·R, R'·n·O)
    wide = empty((h, points, tall.shape[2]), m)
    multiply(down[None], tall, out=wide.swapaxes(0, 1))             # (H, P·R) @ (P, P·R, …) -> (P, H, R'·n·O)
    rows = wide.reshape(h, across.shape[1], -1)     # (H, P, R'·n·O) -> (H, P·R', n·O)
    image = y.swapaxes(0, 1).swapaxes(1, 2).reshape(h, w, n * o)    # (n, H, W, O) -> (H, W, n·O), a view
    multiply(across[None], rows, out=image)         # (W, P·R') @ (H, P·R', n·O) -> (H, W, n·O)


@cache
def best_tile(n, h, w, inputs, outputs, sizes=TILES):
    """The cheapest of these tile sizes for n images of h x w pixels: counts multiplications and reading U."""
    def cost(tile):
        p = tile + 2
        rows = tiles(h, tile)
        columns = tiles(w, tile)
        axes = p * columns * h * (w + p * rows)
        return p * p * (n * rows * columns + READING) * inputs * outputs + n * axes * (inputs + outputs)

    return min(sizes, key=cost)


def tiles(length, tile):
    """The number of tiles that cover this many pixels."""
    return -(-length // tile)


def cook_toom(tile):
    """Bᵀ: (P, P), G: (P, 3) and A: (P, tile), each with a row for every point, as lists.

    Two outputs of the kernel (2, -1, 3) over the inputs 1, 2, 3, 4, with the points 0, 1, -1 and ∞:

    >>> bt, g, a = (tensor(matrix, dtype=torch.float32) for matrix in cook_toom(2))
    >>> u = g @ tensor([2., -1., 3.])
    >>> v = bt @ tensor([1., 2., 3., 4.])
    >>> u.tolist(), v.tolist()
    ([-2.0, 2.0, 3.0, 3.0], [2.0, 5.0, 1.0, 2.0])
    >>> (a.T @ (u * v)).tolist()                        # 2·1 - 1·2 + 3·3 and 2·2 - 1·3 + 3·4
    [9.0, 13.0]
    """
    points = POINTS[tile]
    b = []
    g = []
    a = []
    for point in points:
        others = [other for other in points if other != point]
        b.append([*polynomial(others), 0])
        g.append([point ** i / prod(point - other for other in others) for i in range(3)])
        a.append([point ** i for i in range(tile)])
    # The last row of each is for ∞.
    return [*b, polynomial(points)], [*g, [0, 0, 1]], [*a, [0] * (tile - 1) + [1]]


def polynomial(roots):
    """The coefficients of Π (x - root), from x⁰ up."""
    coefficients = [1]
    for root in roots:
        shifted = [0, *coefficients]            # times x
        coefficients = [below - root * here for below, here in zip(shifted, [*coefficients, 0], strict=True)]
    return coefficients


MATRICES = {}


def bands(length, tile, like):
    """Bᵀ: (P·R, length) and Aᵀ: (length, P·R) for all R tiles of a line, as arrays like `like`.

    Row k·R + r of Bᵀ is for point k of tile r, whose inputs begin one pixel before its first output.
    """
    xp = library(like)
    key = length, tile, xp, like.dtype, like.device
    if key not in MATRICES:
        b, _, a = cook_toom(tile)
        places = [(k, r * tile) for k in range(tile + 2) for r in range(tiles(length, tile))]
        bt = [[b[k][i - start + 1] if 0 <= i - start + 1 < tile + 2 else 0 for i in range(length)]
              for k, start in places]
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
