"""The 3x3 convolution with fewer multiplications.

One dimension first. Four neighbouring outputs of a kernel g = (g₀, g₁, g₂) over six inputs d₀…d₅ take 4 · 3 = 12 multiplications.
But they are coefficients of a product of polynomials, and a polynomial of degree 5 is known by its values at six points. So:
evaluate both at 0, 1, -1, 2, -2 and ∞, multiply the six values, and interpolate:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]         6 multiplications; A, G, B hold powers of the points, and Bᵀ, Aᵀ cost next to nothing

In two dimensions tiles of 6x6 pixels, a step of 4 apart, give 4x4 outputs with 36 multiplications in place of 144:

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

The ⊙ sums over input channels; for each of the 36 places it is a matrix product over all tiles of a batch: (T, C) @ (C, O).
Both transforms are linear, so each is one matrix too: vec(Bᵀ d B) = (Bᵀ ⊗ Bᵀ) vec(d), by a Kronecker product.
The price is rounding: in float32 an error of about 5e-6 of the largest output, where im2col has 4e-7.

Source: Winograd, Arithmetic Complexity of Computations (1980); Lavin, Gray, Fast Algorithms for Convolutional Neural Networks (2015), §4.
Next: pool.py
"""

from scene.nn.arrays import empty, library, windows, zeros
from scene.nn.conv import Conv2d

BT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
G = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))
AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
TILE_NUMBERS = 1 << 18      # transformed numbers worked on at once: what stays in a core's cache need not go to memory


class WinogradConv2d(Conv2d):
    """Conv2d with a kernel of 3, a stride of 1 and a padding of 1, computed as above. Parameters and shapes are Conv2d's.

    With D: (36, T·C) the tiles of x, V = (Bᵀ ⊗ Bᵀ) D, U = (G ⊗ G) w and M[p] = V[p] U[p] for each of the 36 places p,
    Y = (Aᵀ ⊗ Aᵀ) M. Each step is linear, so going back takes the transposed matrices in reverse order:
        dM = (A ⊗ A) dY    dU[p] = V[p]ᵀ dM[p]    dV[p] = dM[p] U[p]ᵀ    dw = (G ⊗ G)ᵀ dU    dD = (B ⊗ B) dV
    and dx adds up the overlapping tiles of dD. V is kept from the forward pass.
    """

    def __init__(self, inputs, outputs, bias=True):
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.inputs)
        b, _, a = matrices(x)
        y = empty((*x.shape[:3], self.outputs), x)
        u, bias = self.weights(training)
        if training:
            self.x_shape, self.u, self.v = x.shape, u, []
        for part in self.parts(x):
            v = (b @ tiles(x[part]).reshape(36, -1)).reshape(36, -1, self.inputs)   # -> (36, T, C)
            m = v @ u                                                               # (36, T, C) @ (36, C, O) -> (36, T, O)
            tile = a @ m.reshape(36, -1)                                            # (16, 36) @ (36, T·O) -> (16, T·O)
            if bias is not None:
                tile.reshape(-1, self.outputs)[...] += bias
            put_outputs(tile, y[part])
            if training:
                self.v.append(v)
        return y

    def backward(self, dy):
        b, g, a = matrices(dy)
        dx = empty(self.x_shape, dy) if self.needs_dx else None
        du = self.u.new_zeros(self.u.shape)
        for part, v in zip(self.parts(dy), self.v, strict=True):
            dm = (a.T @ take_outputs(dy[part]).reshape(16, -1)).reshape(36, -1, self.outputs)   # -> (36, T, O)
            du.baddbmm_(v.transpose(1, 2), dm)                                      # (36, C, O) += (36, C, T) @ (36, T, O)
            if dx is not None:
                dv = dm @ self.u.transpose(1, 2)                                    # (36, T, O) @ (36, O, C) -> (36, T, C)
                add_tiles(b.T @ dv.reshape(36, -1), dx[part])
        dw = (g.T @ du.reshape(36, -1)).reshape(3, 3, self.inputs, self.outputs)    # (9, 36) @ (36, C·O) -> (3, 3, C, O)
        self.dw.copy_(dw.moveaxis(3, 0))
        if "b" in self.parameters:
            library(dy).sum(dy, (0, 1, 2), out=self.db)
        return dx

    def transformed(self):
        """U: (O, 3, 3, C) -> (36, C, O)."""
        _, g, _ = matrices(self.w)
        w = library(self.w).moveaxis(self.w, 0, 3).reshape(9, -1)                   # (O, 3, 3, C) -> (9, C·O)
        return (g @ w).reshape(36, self.inputs, self.outputs)

    def parts(self, y):
        """The batch in slices of a few images, as many as TILE_NUMBERS allows."""
        n, h, w, _ = y.shape
        step = max(1, TILE_NUMBERS // (36 * count(h) * count(w) * max(self.inputs, self.outputs)))
        return [slice(i, i + step) for i in range(0, n, step)]


MATRICES = {}


def matrices(like):
    """(Bᵀ ⊗ Bᵀ): (36, 36), (G ⊗ G): (36, 9) and (Aᵀ ⊗ Aᵀ): (16, 36), as arrays like `like`."""
    xp = library(like)
    key = xp, like.dtype, like.device
    if key not in MATRICES:
        MATRICES[key] = tuple(xp.kron(m, m) for m in (xp.asarray(m, dtype=like.dtype, device=like.device) for m in (BT, G, AT)))
    return MATRICES[key]


def count(length):
    """How many tiles cover this many pixels, 4 each."""
    return -(-length // 4)


def tiles(x):
    """The overlapping tiles of x with a border of zeros: a view, (n, h, w, c) -> (6, 6, n, rows, columns, c)."""
    n, h, w, c = x.shape
    rows, columns = count(h), count(w)
    padded = zeros((n, 4 * rows + 2, 4 * columns + 2, c), x)
    padded[:, 1:h + 1, 1:w + 1] = x
    by_image = windows(padded, 6, 4).reshape(n, rows, columns, 6, 6, c)
    return library(x).moveaxis(by_image, (3, 4), (0, 1))


def add_tiles(d, dx):
    """The transpose of `tiles`, into dx: each pixel's gradient is the sum over the tiles it lies in.

    A tile of 6 spans a block of 4 pixels and the first 2 of the next, both ways.
    """
    n, h, w, c = dx.shape
    rows, columns = count(h), count(w)
    blocks = zeros((n, rows + 1, 4, columns + 1, 4, c), dx)
    by_image = d.reshape(6, 6, n, rows, columns, c).moveaxis((0, 1), (2, 4))            # (n, rows, 6, columns, 6, c)
    whole, rest = (slice(0, 4), slice(None, -1), slice(0, 4)), (slice(4, 6), slice(1, None), slice(0, 2))
    for tv, bv, pv in (whole, rest):                # of the tile, of the blocks, of the block's pixels
        for th, bh, ph in (whole, rest):
            blocks[:, bv, pv, bh, ph] += by_image[:, :, tv, :, th]
    dx.copy_(blocks.reshape(n, 4 * rows + 4, 4 * columns + 4, c)[:, 1:h + 1, 1:w + 1])


def put_outputs(tile, y):
    """Tiles of 4x4 outputs into their places: (16, T·O) -> y: (n, h, w, O), leaving out what lies beyond its edge."""
    n, h, w, o = y.shape
    whole = y if h % 4 == w % 4 == 0 else empty((n, 4 * count(h), 4 * count(w), o), y)
    by_tile = library(y).moveaxis(whole.reshape(n, count(h), 4, count(w), 4, o), (2, 4), (0, 1))     # a view
    by_tile[...] = tile.reshape(by_tile.shape)
    if whole is not y:
        y[...] = whole[:, :h, :w]


def take_outputs(dy):
    """The transpose of `put_outputs`: (n, h, w, O) -> (4, 4, n, rows, columns, O), zeros beyond the edge."""
    n, h, w, o = dy.shape
    if h % 4 or w % 4:
        padded = zeros((n, 4 * count(h), 4 * count(w), o), dy)
        padded[:, :h, :w] = dy
        dy = padded
    return dy.reshape(n, count(h), 4, count(w), 4, o).moveaxis((2, 4), (0, 1))
