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
from scene.nn.pool import GlobalAveragePool
from scene.nn.winograd import WinogradConv2d


class FCNN(Network):
    mode = "FCNN"

    def __init__(self, classes, image_size=32, hidden=(512, 256), dropout=0.3):
        self.image_size = image_size
        self.architecture = {"image_size": image_size, "hidden": list(hidden), "dropout": dropout}
        layers = [Normalize(), Flatten()]
        inputs = image_size * image_size * 3
        for outputs in hidden:
            layers += [Linear(inputs, outputs), BatchNorm(outputs), ReLU(), Dropout(dropout)]
            inputs = outputs
        super().__init__(*layers, Linear(inputs, classes))


def smaller(inputs, outputs):
    return [Conv2d(inputs, outputs, 2, stride=2, bias=False), BatchNorm(outputs), ReLU()]


def residual(c):
    body = Sequential(WinogradConv2d(c, c, bias=False), BatchNorm(c), ReLU(), WinogradConv2d(c, c, bias=False), BatchNorm(c))
    return [Residual(body), ReLU()]


class CNN(Network):
    mode = "CNN"

    def __init__(self, classes, image_size=64, widths=(32, 64, 128), depths=(1, 2)):
        self.image_size = image_size
        self.architecture = {"image_size": image_size, "widths": list(widths), "depths": list(depths)}
        layers = [Normalize(), Conv2d(3, widths[0], 4, stride=2, padding=1, bias=False), BatchNorm(widths[0]), ReLU()]
        for a, b, d in zip(widths, widths[1:], depths):
            layers += smaller(a, b)
            for _ in range(d):
                layers += residual(b)
        super().__init__(*layers, GlobalAveragePool(), Linear(widths[-1], classes))


MODES = {"FCNN": FCNN, "CNN": CNN}
