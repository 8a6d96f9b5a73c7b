"""Dropout: in training every number is missing now and then, so that no other relies on it alone.

Next: ../models.py
"""

from scene.nn.layer import Layer


class Dropout(Layer):
    """y = x · m / (1 - rate), where each m is 0 with probability `rate`, else 1, drawn anew each step; in evaluation y = x.

    x, y: any shape.   dx = dy · m / (1 - rate).   The division keeps the expected value of y at x.
    Source: Srivastava et al., Dropout (2014), §4 and §10.
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
