"""Distillation: a network learns from the labels and from the answers of trained models.

A label says "coast" and no more. A trained model says coast 60 %, harbor 20 %, lighthouse 10 %: so it also
says what else the photo resembles, and how certain that is. A network that learns from such soft labels
memorises less. The soft labels of a photo are

    q = (1 - β) ((1 - ε) t + ε/K) + β p,     β = 0.6

t: (K,) is its label, one-hot and smoothed as without distillation. p: (K,) are the probabilities that models
give the whole photo, before any calibration, averaged over the models. They may be larger or slower networks,
of any mode, or earlier models of the same network. Several are a better teacher than one, since they err in
different places.

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015); Furlanello et al.,
Born-Again Neural Networks (2018).
Next: head.py
"""

from dataclasses import replace

import numpy as np

from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.learn.recipe import SMOOTHING
from scene.learn.teacher import its_terms
from scene.nn.loss import softmax
from scene.photos.cache import make_cache
from scene.photos.pixels import decode_all
from scene.processes import parallel_map

BETA = 0.6


def open_models(options):
    """The models of --distill: [(path, Classifier, its entry for the new card)]. Raises ModelFileError."""
    models = []
    for path in options.distill or []:
        with open(path, "rb") as file:
            data = file.read()
        with modelfile.named(path):
            model = Classifier.load(data)
        models.append((path, model, modelfile.describe_source(data, model.card)))
    return models


def soften(photos, models, options):
    """The Photos with soft labels by these models, or as they are if there are none.

    Says which models they are, and what they know of the photos. Raises UserError.
    """
    if not models:
        return photos
    p = np.zeros((len(photos.labels), len(photos.classes)), np.float32)
    for path, model, source in models:
        check_classes(path, model.classes, photos.classes)
        name = f"{printable(path)} ({source['sha256'][:12]})"
        print(f"Learning also from {name}.{its_terms(source)}", flush=True)
        p += answers(path, model, photos, options)
    t = np.zeros_like(p)
    t[np.arange(len(t)), photos.labels] = 1
    smoothed = (1 - SMOOTHING) * t + SMOOTHING / len(photos.classes)
    return replace(photos, soft=BETA * (p / len(models)) + (1 - BETA) * smoothed,
                   distilled_from=[source for _, _, source in models])


def answers(path, model, photos, options):
    """The probabilities that a model gives the photos, (N, K). Says how many of them it is right about."""
    features = model.features(pixels_for(model, photos, options), parallel_map)
    p = softmax(model.scores(features))[:, [model.classes.index(name) for name in photos.classes]]
    if not np.isfinite(p).all():
        raise UserError(f"{printable(path)} cannot be distilled: some of its probabilities are NaN.")
    print(f"It is right about {(p.argmax(1) == photos.labels).mean():.1%} of these photos.", flush=True)
    return p


def check_classes(path, known, wanted):
    """Raises UserError unless a model knows exactly the classes of the photos."""
    advice = "so it cannot be distilled. Name a model that knows exactly the classes of the photos."
    if missing := [name for name in wanted if name not in known]:
        raise UserError(f"{printable(path)} does not know the class {printable(missing[0])}, {advice}")
    if more := [name for name in known if name not in wanted]:
        raise UserError(f"{printable(path)} also knows the class {printable(more[0])}, which the photos do "
                        f"not have, {advice}")


def pixels_for(model, photos, options):
    """The pixels of the photos at the size of a model."""
    if photos.pixels.shape[1] == model.image_size:
        return photos.pixels
    cache = make_cache(options)
    decoded = (cache.decode_all if cache else decode_all)(photos.paths, model.image_size)
    if decoded.problems:
        i, problem = min(decoded.problems.items())
        raise UserError(f"{printable(photos.paths[i])}: {problem}. It could be read a moment ago. Do not "
                        "change photos while Scene runs.")
    return decoded.pixels
