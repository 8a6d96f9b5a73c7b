"""Checks, before training, what the loop takes for granted of a network.

Next: team.py
"""

import numpy as np

from scene.errors import UserError
from scene.learn.recipe import STAGES, crop_at
from scene.learn.shallow import end_of, residuals
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize


class NetworkError(UserError):
    """A network that cannot be trained: says which layer is in the way, and what to change."""


def check(network, settings, classes=None):
    """Raises NetworkError unless the network can be trained, for this number of classes if it is given."""
    name = type(network).__name__
    if len(network.layers) < 2:
        raise NetworkError(f"{name} has fewer than two layers: begin with Normalize and end in Linear.")
    first = network.layers[0]
    last = network.layers[-1]
    if not isinstance(first, Normalize):
        raise NetworkError(f"{name} begins with {type(first).__name__}: begin with Normalize, which training "
                           "fits to the photos' colours.")
    if not isinstance(last, Linear):
        raise NetworkError(f"{name} ends in {type(last).__name__}: end in Linear, whose outputs are the "
                           "scores of the classes.")
    if classes not in (None, last.outputs):
        raise NetworkError(f"{name} ends in Linear with {last.outputs} outputs: give it one for each of the "
                           f"{classes} classes.")
    for slot in network.parameter_slots:
        if slot.declared.decay and len(slot.declared.shape) < 2:
            raise NetworkError(f"{name}'s parameter {slot.name} has the shape {slot.declared.shape} and "
                               "weight decay, but Muon decays only matrices: declare it with decay=False.")
    if settings.small_start:
        check_bodies(network, name)
    try_shapes(network, settings, name)


def check_bodies(network, name):
    """Raises NetworkError if a residual body cannot be switched off, as a shallow start does (shallow.py)."""
    for residual in residuals(network):
        end = end_of(residual.body)
        if not isinstance(end, BatchNorm):
            i = network.layers.index(residual)
            raise NetworkError(f"The body of {name}'s residual layer {i} ends in {type(end).__name__}: end "
                               "it in BatchNorm, whose scale switches the body off until it is trained.")


def try_shapes(network, settings, name):
    """Raises NetworkError unless the crops of every stage, and whole photos, fit the layers."""
    network.place(np.zeros(network.size, np.float32), np.ones(network.state_size, np.float32))
    starts = [0, *(stage.until for stage in STAGES[:-1])]
    sides = {crop_at(t, network, settings)[0] for t in starts} | {network.image_size}
    for side in sorted(sides):
        try:
            network.forward(np.zeros((2, side, side, 3), np.uint8))
        except (ValueError, TypeError, LookupError) as error:
            raise NetworkError(f"{name} cannot take photos of {side}x{side} pixels: {error}. Change its "
                               "layers, or choose another --image-size.") from error
