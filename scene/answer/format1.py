"""The networks of Scene 1.0 to 1.4, for model files of format 1, which do not list their layers.

These are copies, so that models.py can change while such files keep giving the same answers. The tests in
tests/nn fix the results of each layer.

Next: classifier.py
"""

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.layer import Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d


class FCNN(Network):
    """models.FCNN as in Scene 1.4."""

    def __init__(self, classes, image_size, hidden, dropout):
        self.image_size = image_size
        layers = [Normalize(), Flatten()]
        inputs = image_size * image_size * 3
        for outputs in hidden:
            layers += [Linear(inputs, outputs), BatchNorm(outputs), ReLU(), Dropout(dropout)]
            inputs = outputs
        super().__init__(*layers, Linear(inputs, classes))


class CNN(Network):
    """models.CNN as in Scene 1.4."""

    def __init__(self, classes, image_size, widths):
        self.image_size = image_size
        inputs = widths[0]
        layers = [Normalize(), Conv2d(3, inputs, 4, stride=2, padding=1, bias=False),
                  MaxPool2d(2), BatchNorm(inputs), ReLU()]
        for i, outputs in enumerate(widths[1:]):
            if i:
                layers.append(MaxPool2d(2))
            layers += [conv(inputs, outputs), BatchNorm(outputs), ReLU()]
            layers += [Residual(Sequential(conv(outputs, outputs), BatchNorm(outputs), ReLU(),
                                           conv(outputs, outputs), BatchNorm(outputs))), ReLU()]
            inputs = outputs
        super().__init__(*layers, GlobalAveragePool(), Linear(inputs, classes))


def conv(inputs, outputs):
    return WinogradConv2d(inputs, outputs, bias=False)


NETWORKS = {"FCNN": FCNN, "CNN": CNN}
