"""Dropout: sets random numbers to 0 in training, so that the network does not rely on any single one.

Next: fold.py
"""

from scene.nn.layer import Layer


class Dropout(Layer):
    """y = x · m / (1 - rate), where each m is 0 with probability `rate`, else 1, drawn anew at each step.

    x, y: any shape.   dx = dy · m / (1 - rate)
    In evaluation y = x. The division keeps the expected value of y at x.
    Source: Srivastava et al., Dropout (2014), §4 and §10.

    >>> layer = Dropout(0.5)
    >>> layer.forward(tensor([1., 2., 3.])).tolist()            # evaluation
    [1.0, 2.0, 3.0]
    >>> network = Network(layer).start(torch.Generator())
    >>> y = layer.forward(torch.ones(1000), training=True)
    >>> sorted(set(y.tolist())), round(y.mean().item())         # 0 or 1 / (1 - 0.5), on average 1
    ([0.0, 2.0], 1)
    >>> torch.equal(layer.backward(torch.ones(1000)), y)        # the same mask
    True
    """

    def __init__(self, rate):
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout's rate must be at least 0 and less than 1, not {rate}")
        self.rate = rate

    def forward(self, x, training=False):
        if not training:
            return x
        if self.rate == 0:
            self.mask = None
            return x
        keep = 1 - self.rate
        self.mask = x.new_empty(x.shape).bernoulli_(keep, generator=self.generator).div_(keep)
        return x * self.mask

    def backward(self, dy):
        return dy if self.mask is None else dy * self.mask
