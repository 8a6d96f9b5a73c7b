"""The convolution: one small linear layer, applied to every patch of an image.

A patch of k x k pixels with C channels is a row of k·k·C numbers. Stack the patches of a batch as the rows of
a matrix, and the convolution is the matrix product of linear.py (im2col). Images are (N, H, W, C), so the
result is an image again without a copy. The next file computes the same with fewer multiplications: skip it
on a first reading.

Next: winograd.py
"""

from scene.nn.arrays import add_product, copy_runs, empty, library, multiply, windows, zeros
from scene.nn.layer import Layer, Parameter

PATCH_BYTES = 1 << 22      # patches in memory at once: half of it or twice as much is as fast


class Conv2d(Layer):
    """Convolution: yₙₕᵥₒ = bₒ + Σᵢⱼ꜀ wₒᵢⱼ꜀ · xₙ,ₛₕ₊ᵢ₋ₚ,ₛᵥ₊ⱼ₋ₚ,꜀, with x = 0 outside the image.

    x: (N, H, W, C), y: (N, H', W', O), H' = (H + 2·padding - kernel) // stride + 1, W' alike.
    w: (O, k, k, C), b: (O,).
    Given dy, with the patches as rows of P: (N·H'·W', k·k·C) and W, dY as matrices:
        Y = P Wᵀ + b    dP = dY W    dW = dYᵀ P    db = Σ dY    dx: each pixel sums its copies in dP
    P is kept from the forward pass.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), §9.1; for im2col Chellapilla et al., High
    Performance Convolutional Neural Networks for Document Processing (2006).

    >>> layer = Conv2d(1, 1, kernel=2)
    >>> network = Network(layer).start(torch.Generator())
    >>> network.params[:] = tensor([1, 2, 3, 4, 100])               # w = [[1, 2], [3, 4]], b = 100
    >>> x = tensor([[1., 2., 3.], [4., 5., 6.]]).reshape(1, 2, 3, 1)
    >>> layer.forward(x, training=True).flatten().tolist()      # 1·1 + 2·2 + 3·4 + 4·5 + 100, and so on
    [137.0, 147.0]
    >>> layer.needs_dx = True                           # else a network's first layer computes no dx
    >>> layer.backward(tensor([1., 10.]).reshape(1, 1, 2, 1)).reshape(2, 3).tolist()    # 12 = 1·2 + 10·1
    [[1.0, 12.0, 20.0], [3.0, 34.0, 40.0]]
    """

    def __init__(self, inputs, outputs, kernel, stride=1, padding=0, bias=True):
        self.inputs, self.outputs = inputs, outputs
        self.kernel, self.stride, self.padding = kernel, stride, padding
        fan_in = kernel * kernel * inputs
        shape = outputs, kernel, kernel, inputs
        self.parameters = {"w": Parameter(shape, std=(2 / fan_in) ** 0.5, decay=True)}
        if bias:
            self.parameters["b"] = Parameter((outputs,))

    def forward(self, x, training=False):
        self.expect(x, None, None, None, self.inputs)
        matrix = self.w.reshape(self.outputs, -1).T             # (O, k, k, C) -> (k·k·C, O)
        if training:
            x = self.narrow(x)
            matrix = self.narrow(matrix)
            self.x_shape = x.shape
            self.p = []
        n, h, w, _ = x.shape
        y = empty((n, *self.output_size(h, w), self.outputs), self.w)
        for part in self.parts(y):
            patches = self.patches(x[part])
            multiply(patches, matrix, out=y[part].reshape(-1, self.outputs))
            if training:
                self.p.append(patches)
        if "b" in self.parameters:
            y += self.b
        return y

    def backward(self, dy):
        if "b" in self.parameters:
            library(dy).sum(dy, (0, 1, 2), out=self.db)
        dx = empty(self.x_shape, dy) if self.needs_dx else None
        dy = self.narrow(dy)
        matrix = self.narrow(self.w.reshape(self.outputs, -1))      # (O, k, k, C) -> (O, k·k·C)
        dw = self.dw.reshape(self.outputs, -1).zero_()
        for part, patches in zip(self.parts(dy), self.p, strict=True):
            rows = dy[part].reshape(-1, self.outputs)       # (n, H', W', O) -> (n·H'·W', O)
            add_product(rows.T, patches, out=dw)            # (O, k·k·C) += (O, n·H'·W') @ (n·H'·W', k·k·C)
            if dx is not None:
                dx[part] = self.gather(rows @ matrix, dx[part].shape)
        return dx

    def output_size(self, h, w):
        """H' and W', or a ValueError if the padded image is smaller than the kernel."""
        k, s, p = self.kernel, self.stride, self.padding
        if min(h, w) + 2 * p < k:
            raise ValueError(
                f"Conv2d with a kernel of {k} and padding {p} cannot work on an image of {h}x{w}")
        return (h + 2 * p - k) // s + 1, (w + 2 * p - k) // s + 1

    def parts(self, y):
        """The batch in slices of as many images as PATCH_BYTES allows, at least one."""
        n, h, w, _ = y.shape
        step = max(1, PATCH_BYTES // (self.w.itemsize * h * w * self.kernel ** 2 * self.inputs))
        return [slice(i, i + step) for i in range(0, n, step)]

    def places(self, h, w):
        """For each position (i, j) in the kernel, the pixels of the padded image, as two strided slices."""
        s = self.stride
        rows, columns = self.output_size(h, w)
        for i in range(self.kernel):
            for j in range(self.kernel):
                yield i, j, slice(i, i + s * rows, s), slice(j, j + s * columns, s)

    def patches(self, x):
        """Every patch as a row: (n, H, W, C) -> (n·H'·W', k·k·C)."""
        n, h, w, c = x.shape
        k, p = self.kernel, self.padding
        if p:
            padded = zeros((n, h + 2 * p, w + 2 * p, c), x)
            padded[:, p:p + h, p:p + w] = x
            x = padded
        return copy_runs(windows(x, k, self.stride)).reshape(-1, k * k * c)

    def gather(self, dpatches, shape):
        """The transpose of `patches`: each pixel sums its copies, (n·H'·W', k·k·C) -> (n, H, W, C)."""
        n, h, w, c = shape
        k, p = self.kernel, self.padding
        dpatches = dpatches.reshape(n, *self.output_size(h, w), k, k, c)
        padded = zeros((n, h + 2 * p, w + 2 * p, c), dpatches)
        for i, j, rows, columns in self.places(h, w):
            padded[:, rows, columns] += dpatches[:, :, :, i, j]
        return padded[:, p:p + h, p:p + w]
