"""A head in closed form: the last layer of a trained network, solved for new classes in seconds.

The network below it stays as it is, and turns each photo into features x: (F,), the input of the last Linear.
The head is a ridge regression of the labels, one-hot t: (K,), on the features:

    W, b minimise  Σₙ aₙ ‖W xₙ + b - tₙ‖² + λ ‖W‖²

The weights aₙ are 1, unless classes are uneven: then all of a class together weigh as much as any other's.
Few photos need a large λ. The best one is found by leave-one-out: each photo is predicted by the head of all
the others. No head need be solved again for that (see `Ridge`).

A regression predicts 0…1, and softmax would make timid probabilities of that. So W and b are multiplied by
the number a for which a ŷ has the smallest loss, ŷ being the predictions by leave-one-out. It is the loss of
training, with smoothed labels, so that fine-tuning begins where it would end.

Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning (2009), §3.4.1 and §7.10; Guo et
al., On Calibration of Modern Neural Networks (2017), §4.2, for a.
Next: precision.py
"""

import torch

from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.learn.loop import LOSSES, prepare, shuffle
from scene.learn.recalibrate import recalibrate
from scene.learn.recipe import any_size
from scene.nn.loss import one_hot
from scene.photos.pixels import Rows
from scene.processes import parallel_map

STRENGTHS = [10 ** (power / 4) for power in range(-16, 9)]      # λ to try, as multiples of the mean of v
SCALES = 1e-2, 1e3                                              # between which a is
MOST_SCORES = 1 << 22       # of left-out photos, N times K, on which λ and a are chosen


def with_head(network, teacher, pixels, labels, card, balanced, fine_tuned):
    """Gives a new network the teacher's layers and a head for some photos.

    pixels: uint8 (N, S, S, 3), labels: int64 (N,), both NumPy. balanced: see `solve_head`. fine_tuned:
    whether all layers will be trained from here. Then the norms get the statistics of these photos, as in
    training. A head alone is better with the teacher's statistics, which come from many photos, unless
    these photos have another size. Raises UserError if the network has layers of another shape, as an FCNN
    for another image size has.
    """
    prepare()
    network.start(torch.Generator())
    last = network.layers[-1]
    missing = network.arrays().keys() - set(network.reuse(teacher.network))
    if len(missing) > len(last.parameters):
        raise UserError(f"{printable(teacher.path)} has layers for photos of {teacher.network.image_size} "
                        f"pixels a side, not {network.image_size}: leave --image-size out.")
    if any_size(network) and (fine_tuned or network.image_size != teacher.network.image_size):
        recalibrate(network, Rows(pixels).to_torch())
    features = Classifier(network, card).features(pixels, parallel_map)
    w, b = solve_head(features, labels, last.outputs, balanced)
    last.w[...], last.b[...] = torch.from_numpy(w), torch.from_numpy(b)


def solve_head(features, labels, classes, balanced=False):
    """The head for float features (N, F) and labels (N,): W (K, F) and b (K,). All of them NumPy arrays.

    balanced: whether every class counts as much as any other, however many photos it has.
    """
    x, labels = torch.from_numpy(features).double(), torch.from_numpy(labels)
    weights, order = x.new_ones(len(x)), torch.arange(len(x))
    if balanced:
        weights = 1 / labels.bincount()[labels].double()
        weights *= len(x) / weights.sum()
        order = shuffle(labels, balanced, torch.Generator())
    ridge = Ridge(x, labels, classes, weights)
    some = order[::max(1, len(x) * classes // MOST_SCORES)]
    found = []
    for strength in STRENGTHS:
        scores = ridge.without_each(strength, some)
        scale, loss = best_scale(scores, labels[some])
        found.append((loss, strength, scale))
    _, strength, scale = min(found)
    w, b = ridge.solve(strength)
    return (scale * w).numpy(), (scale * b).numpy()


class Ridge:
    """The ridge regression of t, the one-hot labels, on x: (N, F) with the weights a: (N,), for any λ.

    With X = √a (x - mean(x)), T = √a (t - mean(t)), Xᵀ X = V diag(v) Vᵀ and Z = X V, shrinking each direction
    of V on its own:

        W = Tᵀ Z diag(1 / (v + λ)) Vᵀ       √a (ŷ - mean(t)) = Z diag(1 / (v + λ)) Zᵀ T

    Without photo n, its prediction differs from its label by more, since it no longer pulls the head:

        tₙ - ŷ₋ₙ = (tₙ - ŷₙ) / (1 - hₙ),    hₙ = aₙ / Σ a + Σⱼ zₙⱼ² / (vⱼ + λ)
    """

    def __init__(self, x, labels, classes, weights):
        self.labels = labels
        self.share = weights / weights.sum()                    # (N,)
        self.root = weights.sqrt()[:, None]
        self.mean_x, self.mean_t = self.share @ x, labels.bincount(self.share, classes)
        x = self.root * (x - self.mean_x)
        self.v, self.vectors = torch.linalg.eigh(x.T @ x)       # (F,), (F, F)
        self.z = x @ self.vectors                               # (N, F)
        # Zᵀ T: (F, K). Rows of Z times √a add up to 0, so that mean(t) has no part in it.
        self.product = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, self.root * self.z).T

    def inverse(self, strength):
        """1 / (v + λ): (F,), with λ = strength · mean(v). Photos that are all alike have v = 0."""
        return 1 / (self.v + strength * self.v.mean().clip(min=1e-9))

    def solve(self, strength):
        """W: (K, F) and b: (K,)."""
        w = self.product.T * self.inverse(strength) @ self.vectors.T
        return w, self.mean_t - w @ self.mean_x

    def without_each(self, strength, some=slice(None)):
        """The prediction of some photos, n indices, each by the head of all others: (n, K)."""
        inverse = self.inverse(strength)
        z = self.z[some]
        y = self.mean_t + z * inverse @ self.product / self.root[some]
        t = one_hot(self.labels[some], y)
        h = self.share[some] + (z * z) @ inverse
        return t - (t - y) / (1 - h)[:, None]


def best_scale(scores, labels):
    """The number a for which a · scores has the smallest loss, and that loss.

    By the chain rule its slope is dL/da = Σ dz · scores. It rises with a, and halving finds where it is 0.
    """
    loss = LOSSES["cross-entropy"]()
    low, high = SCALES
    for _ in range(40):
        middle = (low * high) ** 0.5
        value = loss.forward(middle * scores, labels)
        slope = (loss.backward() * scores).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return middle, value.item()
