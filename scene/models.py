"""The two networks, each a list of layers.

Both take photos as they are, uint8 (N, S, S, 3), and return logits (N, K), a score for each class. `architecture` holds what
the model file needs to build the same network again.

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
from scene.nn.winograd import WinogradConv2d


class FCNN(Network):
    """Fully connected: every pixel meets every number of the first hidden layer. It knows nothing of neighbourhood.

    Parameters for 10 classes: 766 346, of which 663 552 are the first layer's weights.
    """

    mode = "FCNN"
    any_size = False                # its first layer has a weight for each pixel

    def __init__(self, classes, image_size=24, hidden=(384, 256), dropout=0.3):
        self.image_size = image_size
        self.architecture = {"image_size": image_size, "hidden": list(hidden), "dropout": dropout}
        layers, inputs = [Normalize(), Flatten()], image_size * image_size * 3
        for outputs in hidden:
            layers += [Linear(inputs, outputs), BatchNorm(outputs), ReLU(), Dropout(dropout)]
            inputs = outputs
        super().__init__(*layers, Linear(inputs, classes))


class CNN(Network):
    """Convolutional and residual: the same small patterns are looked for everywhere, then patterns of patterns.

    For a side of 80:      (N, 80, 80, 3)
      4x4 convolution, every other pixel   -> (N, 40, 40, 32)
      pool                                 -> (N, 20, 20, 32)
      3x3 convolution, residual            -> (N, 20, 20, 48)
      pool, 3x3 convolution, residual      -> (N, 10, 10, 128)
      mean over all pixels, linear         -> (N, K)
    Each pool stands where it leaves the most work out: the first before norm and bend, the second before the convolution.
    Parameters for 10 classes: 409 450.
    Source: He et al., Deep Residual Learning (2015); Page, How to Train Your ResNet (2018), for so short a form of it.
    """

    mode = "CNN"
    any_size = True                 # behind the mean no weight depends on the number of pixels

    def __init__(self, classes, image_size=80, widths=(32, 48, 128)):
        self.image_size = image_size
        self.architecture = {"image_size": image_size, "widths": list(widths)}
        inputs = widths[0]
        layers = [Normalize(), Conv2d(3, inputs, 4, stride=2, padding=1, bias=False), MaxPool2d(2), BatchNorm(inputs), ReLU()]
        for i, outputs in enumerate(widths[1:]):
            if i:
                layers.append(MaxPool2d(2))
            layers += [WinogradConv2d(inputs, outputs, bias=False), BatchNorm(outputs), ReLU(), *residual(outputs)]
            inputs = outputs
        super().__init__(*layers, GlobalAveragePool(), Linear(inputs, classes))


def residual(channels):
    """Two convolutions and a short cut around them. No biases: the norms have them."""
    body = Sequential(
        WinogradConv2d(channels, channels, bias=False), BatchNorm(channels), ReLU(),
        WinogradConv2d(channels, channels, bias=False), BatchNorm(channels))
    return [Residual(body), ReLU()]


MODES = {"FCNN": FCNN, "CNN": CNN}
