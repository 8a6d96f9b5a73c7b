"""The torch.nn twin of a network: the same architecture of torch's layers, with copies of the weights."""

import importlib
import pkgutil

import torch
from torch import nn

import scene.nn
from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.fold import ChannelAffine, FoldedWinogradConv2d
from scene.nn.layer import Layer, Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d


class TorchNormalize(nn.Module):
    """Takes our images, (N, H, W, C), and returns torch.nn's, (N, C, H, W), channels last in memory."""

    def __init__(self, layer):
        super().__init__()
        self.mean, self.std = layer.mean.clone(), layer.std.clone()

    def forward(self, x):
        return ((x - self.mean) / self.std).permute(0, 3, 1, 2)


class TorchFlatten(nn.Module):
    """Flattens in our order, pixel by pixel, so that the next layer can have the same weights."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class TorchBatchNorm(nn.BatchNorm2d):
    """Takes images and rows. torch.nn has a class for each, with the same arithmetic."""

    def _check_input_dim(self, x):
        pass


class TorchChannelAffine(nn.Module):
    """Scale and shift of each channel, (N, C, …)."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x):
        shape = (-1,) + (1,) * (x.ndim - 2)         # (C, 1, 1) for images, (C,) for rows
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


class TorchResidual(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.body = twin(layer.body)
        self.shortcut = twin(layer.shortcut) if layer.shortcut else nn.Identity()

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def torch_conv(layer):
    bias = "b" in layer.parameters
    return nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, bias=bias)


TWINS = {
    Normalize: TorchNormalize,
    Flatten: lambda layer: TorchFlatten(),
    Linear: lambda layer: nn.Linear(layer.inputs, layer.outputs),
    ReLU: lambda layer: nn.ReLU(),
    Conv2d: torch_conv,
    WinogradConv2d: torch_conv,
    FoldedWinogradConv2d: torch_conv,
    MaxPool2d: lambda layer: nn.MaxPool2d(layer.kernel, layer.stride),
    GlobalAveragePool: lambda layer: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    BatchNorm: lambda layer: TorchBatchNorm(layer.channels, layer.epsilon, layer.momentum),
    ChannelAffine: lambda layer: TorchChannelAffine(layer.channels),
    Dropout: lambda layer: nn.Dropout(layer.rate),
    Residual: TorchResidual,
}


def twin(layer):
    """The torch.nn module that computes the same as our layer. A network's twin takes the same photos."""
    if isinstance(layer, Sequential):
        module = nn.Sequential(*map(twin, layer.layers))
        return module.to(memory_format=torch.channels_last) if isinstance(layer, Network) else module
    if type(layer) not in TWINS:
        raise KeyError(f"add a line for {type(layer).__name__} to TWINS in tests/twins.py")
    module = TWINS[type(layer)](layer)
    for name in layer.parameters.keys() - {"w", "b"}:
        raise KeyError(f"twin() in tests/twins.py copies w and b: copy {name} of {type(layer).__name__}, too")
    with torch.no_grad():
        if "w" in layer.parameters:
            module.weight.copy_(layer.w.permute(0, 3, 1, 2) if isinstance(layer, Conv2d) else layer.w)
        if "b" in layer.parameters:
            module.bias.copy_(layer.b)
        if isinstance(layer, BatchNorm):
            module.running_mean.copy_(layer.mean)
            module.running_var.copy_(layer.var)
    return module


def layer_classes():
    """Every subclass of Layer in scene/nn/, by name."""
    names = [f"scene.nn.{module.name}" for module in pkgutil.iter_modules(scene.nn.__path__)]
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return {cls.__name__: cls for cls in found
            if isinstance(cls, type) and issubclass(cls, Layer) and cls is not Layer}


def original_fcnn():
    """Scene's first fully connected network: 3072-25-1000-5."""
    return Network(
        Normalize(), Flatten(), Linear(3072, 25), ReLU(), Linear(25, 1000), ReLU(), Linear(1000, 5))


def original_cnn():
    """Scene's first convolutional network: 5x5 convolutions with 6 and 16 channels, on 32x32 pixels."""
    return Network(
        Normalize(), Conv2d(3, 6, 5), MaxPool2d(2), ReLU(), Conv2d(6, 16, 5), MaxPool2d(2), ReLU(), Flatten(),
        Linear(400, 5))
