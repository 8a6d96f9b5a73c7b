"""The networks, each a list of layers, and MODES: everything that the rest of Scene knows about them.

A network takes raw pixels, uint8 (N, S, S, 3), and returns logits (N, K), a score for each class.

Next: learn/augment.py
"""

from typing import NamedTuple

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
    """Fully connected: each hidden unit sees all pixels, and does not know which ones are neighbours.

    Parameters for 10 classes: 766 346, of which 663 552 are the first layer's weights.
    """

    def __init__(self, classes, image_size=24, hidden=(384, 256), dropout=0.3):
        self.image_size = image_size
        layers = [Normalize(), Flatten()]
        inputs = image_size * image_size * 3
        for outputs in hidden:
            layers += [Linear(inputs, outputs), BatchNorm(outputs), ReLU(), Dropout(dropout)]
            inputs = outputs
        super().__init__(*layers, Linear(inputs, classes))


class CNN(Network):
    """Convolutional and residual: finds small patterns anywhere, then patterns made of those patterns.

    For a side of 80:      (N, 80, 80, 3)
      4x4 convolution, every other pixel   -> (N, 40, 40, 32)
      pool                                 -> (N, 20, 20, 32)
      3x3 convolution, residual            -> (N, 20, 20, 48)
      pool, 3x3 convolution, residual      -> (N, 10, 10, 128)
      mean over all pixels, linear         -> (N, K)
    The pools come where they save the most work: one before BatchNorm and ReLU, one before a convolution.
    Parameters for 10 classes: 409 450.
    Source: He et al., Deep Residual Learning (2015); Page, How to Train Your ResNet (2018), for so short a
    form of it.
    """

    def __init__(self, classes, image_size=80, widths=(32, 48, 128)):
        self.image_size = image_size
        inputs = widths[0]
        layers = [Normalize(), Conv2d(3, inputs, 4, stride=2, padding=1, bias=False),
                  MaxPool2d(2), BatchNorm(inputs), ReLU()]
        for i, outputs in enumerate(widths[1:]):
            if i:
                layers.append(MaxPool2d(2))
            layers += [WinogradConv2d(inputs, outputs, bias=False), BatchNorm(outputs), ReLU()]
            layers += residual(outputs)
            inputs = outputs
        super().__init__(*layers, GlobalAveragePool(), Linear(inputs, classes))


def residual(channels):
    """Two convolutions and a shortcut around them. No biases: the norms have them."""
    body = Sequential(
        WinogradConv2d(channels, channels, bias=False), BatchNorm(channels), ReLU(),
        WinogradConv2d(channels, channels, bias=False), BatchNorm(channels))
    return [Residual(body), ReLU()]


class Mode(NamedTuple):
    """A network to choose, with its defaults for training, which learn/recipe.py turns into settings."""

    network: type               # its class: network(classes, image_size=…, …)
    help: str                   # for --help
    pretrained: bool            # whether scene/pretrained/ has a model of it
    epochs: int
    learning_rate: float        # at its peak
    batch_size: int
    shard: int                  # photos that one core works on at a time
    crop_area: float            # crops keep this share of a photo or more
    crop_growth: float          # how far that share grows towards the whole photo by the end, 0…1
    grey: float                 # share of the photos shown in grey, 0…1
    norm_rate: float            # norms and biases take this many times the learning rate
    few_photos: bool            # whether fewer photos mean more epochs, larger steps and smaller crops

    @property
    def image_size(self):
        """Photos are resized to this many pixels a side by default."""
        return self.network(2).image_size

    @property
    def widths(self):
        """The widths of the layers by default, {argument: list}, for networks with such an argument."""
        arguments = self.network(2).architecture
        return {name: value for name, value in arguments.items() if isinstance(value, list)}


DEFAULT_MODE = "CNN"        # answers unless somebody asks for another; it has a pretrained model

MODES = {
    "FCNN": Mode(
        FCNN, "fully connected: faster", pretrained=True,
        epochs=80, learning_rate=0.1, batch_size=256, shard=128,
        crop_area=0.75, crop_growth=0, grey=0.0, norm_rate=1.0, few_photos=False),
    "CNN": Mode(
        CNN, "convolutional: more accurate", pretrained=True,
        epochs=36, learning_rate=0.08, batch_size=128, shard=64,
        crop_area=0.5, crop_growth=1, grey=0.1, norm_rate=4.0, few_photos=True),
}
