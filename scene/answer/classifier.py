"""From a photo to its scene: the one place that predicts.

    from scene import Classifier

    classifier = Classifier.open("model_CNN")
    classifier.classify(open("photo.jpg", "rb").read())         # {"ocean": 0.93, "grass": 0.02, …}

The test after training, the command line, scene.serve and AWS Lambda all use this Classifier, so the accuracy
that training prints is the accuracy of the deployed model. Nothing here imports torch.

Next: gradient_map.py
"""

from __future__ import annotations

import os

import numpy as np

from scene.answer import calibration, modelfile, strangeness
from scene.answer.metrics import by_parts
from scene.answer.modelfile import ModelFileError
from scene.models import MODES
from scene.nn.arrays import adopt, as_numpy, flip, library
from scene.nn.fold import fold
from scene.nn.loss import softmax
from scene.photos import decode
from scene.photos.decode import LOCAL, Limits

FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "pretrained")
PRETRAINED = {mode: os.path.join(FOLDER, f"model_{mode}") for mode in MODES if MODES[mode].pretrained}
BATCH_PIXELS = 1 << 17      # pixels in a batch: 20 photos of 80x80, a third faster per photo than 81


class Classifier:
    """A trained network that classifies photos, on NumPy arrays or torch tensors.

    network     the network, folded (nn/fold.py)
    card        the card of its model file
    calibration its calibration, {name: array}, or None: then no answer says whether it is sure
    classes     the names of the classes, in the order of the network's outputs
    mode        its name in models.MODES, such as "CNN"
    image_size  photos are resized to this many pixels a side
    sha256      the model file's SHA-256, in hex
    name        its first 12 digits, which answers contain
    """

    def __init__(self, network, card: dict, sha256: str = ""):
        with np.errstate(all="ignore"):                     # overflow ends in NaN, caught in `probabilities`
            self.network = fold(network, gradients=False)
        self.card = card
        self.sha256 = sha256
        self.name = sha256[:12]
        self.classes: list[str] = card["classes"]
        self.mode: str = card["mode"]
        self.image_size: int = network.image_size
        self.calibration: dict[str, np.ndarray] | None = card.get("calibration") or None
        self.temperature = self.calibration["temperature"] if self.calibration else 1

    @classmethod
    def open(cls, path: str | os.PathLike) -> Classifier:
        """The classifier in a model file, on NumPy. Raises ModelFileError or OSError."""
        with open(path, "rb") as file:
            data = file.read()
        with modelfile.named(path):
            return cls.load(data)

    @classmethod
    def load(cls, data: bytes, arrays: str = "numpy") -> Classifier:
        """The classifier in the bytes of a model file, on "numpy" or "torch" arrays. Raises ModelFileError.

        As a check, it must have finite probabilities for a black picture.
        """
        if arrays not in ("numpy", "torch"):
            raise ValueError(f'arrays must be "numpy" or "torch", not {arrays!r}')
        network, card = modelfile.load(data)
        if "calibration" in card and not calibration.is_valid(card["calibration"], network):
            raise ModelFileError("its calibration is not that of its network")
        if arrays == "torch":
            import torch  # here, not above: prediction on NumPy needs none

            network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
        classifier = cls(network, card, modelfile.hash_of(data))
        try:
            classifier.probabilities(np.zeros((1, network.image_size, network.image_size, 3), np.uint8))
        except ValueError as error:
            raise ModelFileError(f"its layers do not fit its image size: {error}") from error
        return classifier

    def classify(self, photo: bytes, limits: Limits = LOCAL) -> dict[str, float]:
        """The bytes of a photo -> {class: probability}, likeliest first.

        Raises PhotoError or ModelFileError.
        """
        if not isinstance(photo, (bytes, bytearray, memoryview)):
            raise TypeError(f"a classifier takes the bytes of a photo, not {type(photo).__name__}")
        return self.answer(photo, limits)["probabilities"]

    def answer(self, photo: bytes, limits: Limits = LOCAL) -> dict:
        """The bytes of a photo -> {"scene", "probabilities", "sure", "reason"}, as `answer_pixels` says.

        Raises PhotoError or ModelFileError.
        """
        return self.answer_pixels(decode.decode(photo, self.image_size, limits))

    def answer_pixels(self, pixels: np.ndarray) -> dict:
        """A decoded photo, uint8 (S, S, 3) -> its answer, ready for JSON. Raises ModelFileError.

        scene: the likeliest class. probabilities: {class: probability}, likeliest first. If the model has a
        calibration, sure: whether to rely on the answer, and if not, reason: one of calibration.REASONS.
        """
        p, reasons = self.judge(pixels[None])               # (S, S, 3) -> (1, S, S, 3) -> (1, K)
        ranked = {self.classes[k]: float(p[0, k]) for k in np.argsort(-p[0], kind="stable")}
        answer = {"scene": next(iter(ranked)), "probabilities": ranked}
        if reasons:
            answer["sure"] = reasons[0] is None
        return answer | ({"reason": reasons[0]} if reasons and reasons[0] else {})

    def judge(self, pixels: np.ndarray, run=map, features: np.ndarray | None = None) \
            -> tuple[np.ndarray, list[str | None] | None]:
        """For decoded photos, (N, S, S, 3): their probabilities, (N, K), and why each answer is not sure.

        The reasons are calibration.REASONS, None for a sure answer. Without a calibration there is no list.
        features: those of the photos, if they are known already.
        """
        features = self.features(pixels, run) if features is None else features
        p = self.probabilities_of(features)
        if not self.calibration:
            return p, None
        logs = None
        if "strange" in self.calibration:
            logs = strangeness.distances(features, self.textures(pixels, run), self.calibration)
        return p, calibration.reasons(p, logs, self.calibration)

    def probabilities(self, pixels: np.ndarray, run=map) -> np.ndarray:
        """The probability of each class for decoded photos: uint8 (N, S, S, 3) -> float32 (N, K), both NumPy.

        run: `map` or, for many photos, processes.parallel_map. Raises ModelFileError if any are NaN.
        """
        return self.probabilities_of(self.features(pixels, run))

    def probabilities_of(self, features: np.ndarray) -> np.ndarray:
        """The probabilities from features: (N, F) -> (N, K). Raises ModelFileError if any are NaN."""
        with np.errstate(all="ignore"):                     # overflow ends in NaN, which is caught below
            p = np.concatenate(by_parts(lambda few: softmax(self.scores(few) / self.temperature),
                                        len(self.classes), features))
        if not np.isfinite(p).all():
            raise ModelFileError("its probabilities are NaN")
        return p

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The score of each class, from features: (N, F) -> (N, K). Exactly features Wᵀ + b."""
        return as_numpy(self.network.layers[-1].forward(adopt(features, self.network.params)))

    def features(self, pixels: np.ndarray, run=map) -> np.ndarray:
        """The input of the last layer for decoded photos: uint8 (N, S, S, 3) -> float32 (N, F), both NumPy.

        run: as for `probabilities`.
        """
        size = self.image_size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"a classifier takes uint8 pixels of shape (N, {size}, {size}, 3), not "
                             f"{pixels.dtype} of shape {pixels.shape}")
        with np.errstate(all="ignore"):
            return in_batches(self.features_of_few, pixels, run)

    def textures(self, pixels: np.ndarray, run=map) -> np.ndarray:
        """The `strangeness.texture` of decoded photos: uint8 (N, S, S, 3) -> float32 (N, G).

        run: as for `probabilities`.
        """
        return in_batches(strangeness.texture, pixels, run)

    def features_of_few(self, pixels):
        """The features of a few photos at once: (N, S, S, 3) -> (N, F).

        Averages those of a photo and of its mirror image, which shows the same scene. The last layer is
        linear, so this averages their scores, too.
        """
        x = adopt(pixels, self.network.params)
        views = [x, flip(x, 2)] if self.card["mirror"] else [x]
        x = library(x).concatenate(views)                   # V of (N, S, S, 3) -> (V·N, S, S, 3)
        for layer in self.network.layers[:-1]:
            x = layer.forward(x)
        x = x.reshape(len(views), len(pixels), x.shape[1])  # (V·N, F) -> (V, N, F)
        return as_numpy(x.mean(0))


def in_batches(work, pixels, run):
    """The arrays that `work` returns for a few photos at a time, in one: (N, S, S, 3) -> (N, …)."""
    step = max(1, BATCH_PIXELS // pixels.shape[1] ** 2)
    batches = [slice(i, i + step) for i in range(0, max(1, len(pixels)), step)]
    return np.concatenate(list(run(lambda batch: work(pixels[batch]), batches)))
