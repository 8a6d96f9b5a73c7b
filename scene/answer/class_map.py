"""The class map: which places of a photo speak for a class, and which speak against it. Exact.

A network that ends in GlobalAveragePool and Linear scores a class k by

    score_k = b_k + Σ_hv  m_hv        with   m_hv = 1/(H·W) Σ_c  w_kc x_hvc

where x (H, W, C) is what comes before the mean over all pixels. So m_hv, what the place (h, v) contributes to
the score, is a summand of it, not an estimate. Each place sees a part of the photo around it.

The Classifier's score is the mean of the photo's and of its mirror image's, and so is the map, with the
mirror image's turned back. It explains the logits, before any temperature.

Source: Zhou, Khosla, Lapedriza, Oliva, Torralba, Learning Deep Features for Discriminative Localization
(2016), §2.
Next: labels.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scene.answer.classifier import Classifier
from scene.answer.gradient_map import gradient_maps
from scene.answer.modelfile import ModelFileError
from scene.nn.arrays import adopt, as_numpy, flip
from scene.nn.layer import Network
from scene.nn.linear import Linear
from scene.nn.pool import GlobalAveragePool


class ClassMap(NamedTuple):
    """What a class's score is made of: score = bias + places.sum(), or sensitivities if bias is None."""

    name: str               # the class
    score: float            # its logit
    bias: float | None      # the part of the score that depends on no photo
    places: np.ndarray      # (H, W) float32, top left first: above 0 speaks for the class, below 0 against it

    def as_json(self) -> dict:
        """The map for an answer in JSON."""
        exact = {} if self.bias is None else {"bias": self.bias}
        places = [[round(value, 8) for value in row] for row in self.places.tolist()]
        return {"class": self.name, "exact": bool(exact), "score": self.score, **exact, "places": places}


def is_exact(network: Network) -> bool:
    """Whether a network's scores are sums over places: it ends in GlobalAveragePool and Linear."""
    return [type(layer) for layer in network.layers[-2:]] == [GlobalAveragePool, Linear]


def class_maps(classifier: Classifier, pixels: np.ndarray, classes: list[int]) -> list[ClassMap]:
    """The maps of some classes, by their numbers, for one decoded photo: uint8 (S, S, 3).

    Exact if the network allows it, or else gradients (gradient_map.py). Raises NeedsTorch or ModelFileError.
    """
    with np.errstate(all="ignore"):                     # overflow ends in NaN, which is caught below
        maps = (exact_maps if is_exact(classifier.network) else sensitivities)(classifier, pixels, classes)
    if not all(np.isfinite(each.places).all() for each in maps):
        raise ModelFileError("its class map is NaN")
    return maps


def exact_maps(classifier, pixels, classes):
    """The maps of a network whose scores are sums over places."""
    network = classifier.network
    views = [pixels, flip(pixels, 1)] if classifier.card["mirror"] else [pixels]
    x, *mirrored = places_of(network, np.stack(views))
    if mirrored:
        x = (x + flip(mirrored[0], 1)) / 2                                  # the scores are linear in x
    last = network.layers[-1]
    w, b = as_numpy(last.w)[classes], as_numpy(last.b)[classes]
    maps = x @ w.T / np.float32(x.shape[0] * x.shape[1])        # (H, W, C) @ (C, K') -> (H, W, K')
    return [ClassMap(classifier.classes[k], float(b[i] + maps[:, :, i].sum(dtype=float)), float(b[i]),
                     maps[:, :, i]) for i, k in enumerate(classes)]


def places_of(network, pixels):
    """What the network sees at each place, before the mean over all of them: (N, S, S, 3) -> (N, H, W, C)."""
    x = adopt(pixels, network.params)
    for layer in network.layers[:-2]:
        x = layer.forward(x)
    return as_numpy(x)


def sensitivities(classifier, pixels, classes):
    """The maps of any other network: how sensitive each score is to each pixel."""
    scores = classifier.scores(classifier.features(pixels[None]))[0]        # (K,)
    maps = gradient_maps(classifier, pixels, classes)
    return [ClassMap(classifier.classes[k], float(scores[k]), None, places)
            for k, places in zip(classes, maps, strict=True)]
