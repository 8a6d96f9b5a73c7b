"""The torch.nn twin of a network: the same architecture built of torch's own layers, with copies of the same weights."""

import torch
from torch import nn

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.dropout import Dropout
from scene.nn.layer import Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool, MaxPool2d
from scene.nn.winograd import WinogradConv2d


class TorchNormalize(nn.Module):
    """Takes our images, (N, H, W, C) pixels, and returns torch.nn's, (N, C, H, W), channels last in memory."""

    def __init__(self, layer):
        super().__init__()
        self.mean, self.std = layer.mean.clone(), layer.std.clone()

    def forward(self, x):
        return ((x - self.mean) / self.std).permute(0, 3, 1, 2)


class TorchFlatten(nn.Module):
    """Flattens in our order, pixel by pixel, so that the weights behind it are the same."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class TorchBatchNorm(nn.BatchNorm2d):
    """torch.nn has one class for images and one for rows; the arithmetic is the same."""

    def _check_input_dim(self, x):
        pass


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
    MaxPool2d: lambda layer: nn.MaxPool2d(layer.kernel, layer.stride),
    GlobalAveragePool: lambda layer: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    BatchNorm: lambda layer: TorchBatchNorm(layer.channels, layer.epsilon, layer.momentum),
    Dropout: lambda layer: nn.Dropout(layer.rate),
    Residual: TorchResidual,
}


def twin(layer):
    """The torch.nn module that computes what our layer does; it takes photos as our networks do."""
    if isinstance(layer, Sequential):
        module = nn.Sequential(*map(twin, layer.layers))
        return module.to(memory_format=torch.channels_last) if isinstance(layer, Network) else module
    if type(layer) not in TWINS:
        raise KeyError(f"add a line for {type(layer).__name__} to TWINS in tests/twins.py")
    module = TWINS[type(layer)](layer)
    with torch.no_grad():
        if "w" in layer.parameters:
            module.weight.copy_(layer.w.permute(0, 3, 1, 2) if isinstance(layer, Conv2d) else layer.w)
        if "b" in layer.parameters:
            module.bias.copy_(layer.b)
        if isinstance(layer, BatchNorm):
            module.running_mean.copy_(layer.mean)
            module.running_var.copy_(layer.var)
    return module
