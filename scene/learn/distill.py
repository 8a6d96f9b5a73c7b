"""Distillation: a network learns from the answers of trained models, too, and not only from the labels.

A label says "coast" and no more. A trained model says coast 60 %, harbor 20 %, lighthouse 10 %: what else can
be seen in the photo, and how sure one can be of it. With such soft labels a network learns less by heart. The
soft labels of a photo are

    q = (1 - β) ((1 - ε) t + ε/K) + β p,     β = 0.6

t: (K,) is its label, one-hot and smoothed as without distillation. p: (K,) are the probabilities that models
give the whole photo, averaged over the models. They may be larger or slower networks, of any mode, or earlier
models of the same network. Several are a better teacher than one, since they err in different places.

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015); Furlanello et al.,
Born-Again Neural Networks (2018).
Next: head.py
"""

from dataclasses import replace

import numpy as np

from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.learn.recipe import SMOOTHING
from scene.learn.teacher import read_model
from scene.nn.loss import softmax
from scene.photos.cache import make_cache
from scene.photos.pixels import decode_all
from scene.processes import parallel_map

BETA = 0.6


def soften(photos, options):
    """The Photos with soft labels by the models of --distill, and their hashes and terms for the card.

    Without the option, the Photos as they are. Says what each model knows of them. Raises UserError.
    """
    if not options.distill:
        return photos, []
    sources, p = [], 0
    for path in options.distill:
        network, card, source = read_model(path)
        model = Classifier(network, card)
        check_classes(path, model.classes, photos.classes)
        sources.append(source)
        answers = softmax(model.scores(model.features(pixels_for(model, photos, options), parallel_map)))
        say(path, source, (answers.argmax(1) == photos.labels).mean())
        p += answers
    t = np.eye(len(photos.classes), dtype=np.float32)[photos.labels]
    smoothed = (1 - SMOOTHING) * t + SMOOTHING / len(photos.classes)
    return replace(photos, soft=BETA * (p / len(sources)) + (1 - BETA) * smoothed), sources


def check_classes(path, known, wanted):
    """Raises UserError unless a model knows exactly the classes of the photos."""
    if missing := [name for name in wanted if name not in known]:
        raise UserError(f"{printable(path)} does not know the class {printable(missing[0])}, so it cannot be "
                        "distilled: name a model of the same classes.")
    if more := [name for name in known if name not in wanted]:
        raise UserError(f"{printable(path)} also knows the class {printable(more[0])}, which the photos do "
                        "not have, so it cannot be distilled: name a model of the same classes.")


def pixels_for(model, photos, options):
    """The pixels of the photos at the size of a model."""
    if photos.pixels.shape[1] == model.image_size:
        return photos.pixels
    cache = make_cache(options)
    decoded = (cache.decode_all if cache else decode_all)(photos.paths, model.image_size)
    if decoded.problems:
        i, problem = min(decoded.problems.items())
        raise UserError(f"{printable(photos.paths[i])}: {problem}. It could be read before: leave it as it "
                        "is while Scene works.")
    return decoded.pixels


def say(path, source, accuracy):
    """Prints that a model is distilled, and under which terms."""
    terms = f" Its terms: {words.rstrip('.')}." if (words := source["terms"]) else ""
    print(f"Learning also from {printable(path)} ({source['sha256'][:12]}), which answers {accuracy:.1%} of "
          f"these photos right.{terms}", flush=True)
