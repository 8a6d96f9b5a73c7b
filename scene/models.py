"""The two networks, each a list of layers.

Next: augment.py
"""

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.layer import Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d


class FCNN(Network):
    mode = "FCNN"

    def __init__(self, classes, image_size=32, hidden=(512, 256), dropout=0.3):
        self.image_size = image_size
        layers = [Normalize(), Flatten()]
        inputs = image_size * image_size * 3
        for outputs in hidden:
            layers += [Linear(inputs, outputs), BatchNorm(outputs), ReLU(), Dropout(dropout)]
            inputs = outputs
        super().__init__(*layers, Linear(inputs, classes))


def down(inputs, outputs):
    return [Conv2d(inputs, outputs, 3, padding=1, bias=False), MaxPool2d(2), BatchNorm(outputs), ReLU()]


def residual(c):
    body = Sequential(Conv2d(c, c, 3, padding=1, bias=False), BatchNorm(c), ReLU(), Conv2d(c, c, 3, padding=1, bias=False), BatchNorm(c))
    return [Residual(body), ReLU()]


class CNN(Network):
    mode = "CNN"

    def __init__(self, classes, image_size=64, widths=(32, 64, 128)):
        self.image_size = image_size
        a, b, c = widths
        super().__init__(
            Normalize(),
            Conv2d(3, a, 4, stride=2, padding=1, bias=False), BatchNorm(a), ReLU(),
            Conv2d(a, b, 3, stride=2, padding=1, bias=False), BatchNorm(b), ReLU(), *residual(b), *down(b, c), *residual(c),
            GlobalAveragePool(), Linear(c, classes))


MODES = {"FCNN": FCNN, "CNN": CNN}
