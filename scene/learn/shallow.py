"""A shallow start: at first, training leaves out the bodies of the residual layers.

Early learning needs little depth, and steps without the bodies take about half the time. The bodies join
later, and find good features to add to.

Source: Huang et al., Deep Networks with Stochastic Depth (2016), who leave bodies out by chance.
Next: check.py
"""

from scene.nn.layer import Residual, Sequential


def residuals(network):
    """The network's residual layers."""
    return [layer for layer in network.layers if isinstance(layer, Residual)]


def without_bodies(network):
    """The same layers and the same memory, with only the shortcut of each residual layer."""
    kept = []
    for layer in network.layers:
        if not isinstance(layer, Residual):
            kept.append(layer)
        elif layer.shortcut is not None:
            kept.append(layer.shortcut)
    return Sequential(*kept)


def inside_bodies(network):
    """The simple layers that `without_bodies` leaves out."""
    return frozenset(layer for residual in residuals(network) for _, layer in residual.body.walk())


def set_body_scale(network, scale):
    """Sets γ of the BatchNorm that ends each residual body. At 0 the body adds nothing."""
    for residual in residuals(network):
        end_of(residual.body).w.fill_(scale)


def end_of(layer):
    """The simple layer, or the Residual, whose output is the output of a layer that may be made of others."""
    while isinstance(layer, Sequential) and layer.layers:
        layer = layer.layers[-1]
    return layer
