"""The training recipe: settings, defaults, stages, and checks of the network. Runs without torch.

Next: teacher.py
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from scene.nn.pool import GlobalAveragePool

TYPICAL_PHOTOS = 9000       # the numbers in models.MODES suit about this many
START_PHOTOS = 300          # of each class, at most: then training starts from Scene's own model (teacher.py)
MOST_LEARNING_RATE = 0.15
FINE_TUNING_PHOTOS = 75     # of each class on average, at least: with fewer, a head is all (is_head_enough)
FINE_TUNING_EPOCHS = 20     # of a network that starts from a trained one
FINE_TUNING_RATE = 0.6      # the share of the learning rate for one, with TYPICAL_PHOTOS
MOST_SHARDS = 16            # each has its own copy of the gradients
UNEVEN = 2                  # times as many photos in one class as in another: see tests/bench/README.md
PRECISIONS = "float32", "bfloat16"
SMOOTHING = 0.1             # of labels, for the cross-entropy
DISTILLATION = "distillation"       # the loss that compares with soft labels (distill.py)
DISTILLATION_CROPS = 0.7    # of a network that starts from a trained one: smaller by this factor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can vary between runs. models.Mode explains the numbers, main.py has the options."""

    epochs: int
    learning_rate: float
    batch_size: int
    shard: int
    crop_area: float
    crop_growth: float
    grey: float
    small_start: bool = False           # begin with the smallest crops and without residual bodies (STAGES)
    loss: str = "cross-entropy"
    balanced: bool = False              # every class is shown equally often
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"          # of the operands of large products
    momentum: float = 0.9
    decay: float = 5e-4
    norm_rate: float


def defaults(mode, photos, trained=False, distilled=False):
    """The settings for a mode, an entry of models.MODES, and a number of photos, as {name: value}.

    If the mode has few_photos, a sixteenth as many photos are each seen twice as often. That still makes far
    fewer steps, so they are larger, up to a limit. And the crops grow less, since the network would memorise
    a few whole photos.

    trained: whether it starts from a trained network and its new head. Few photos could only spoil what that
    has learned from many, so fewer photos mean smaller steps here, and the crops are large from the start.
    distilled: whether it learns from soft labels, too. It then memorises less, so its crops can be smaller.
    """
    few = (TYPICAL_PHOTOS / photos) ** 0.25 if mode.few_photos else 1
    rate = min(max(MOST_LEARNING_RATE, mode.learning_rate), round(mode.learning_rate * few, 3))
    settings = {
        "epochs": round(mode.epochs * few),
        "learning_rate": rate,
        "batch_size": mode.batch_size,
        "shard": mode.shard,
        "crop_area": mode.crop_area,
        "crop_growth": round(mode.crop_growth * min(1, max(0, 2 - few)), 2),
        "grey": mode.grey,
        "small_start": any_size(mode.network(2)),
        "norm_rate": mode.norm_rate,
    }
    if trained:
        rate = mode.learning_rate * FINE_TUNING_RATE * min(1, photos / TYPICAL_PHOTOS) ** 0.5
        settings |= {"epochs": FINE_TUNING_EPOCHS, "learning_rate": round(rate, 4), "small_start": False,
                     "crop_growth": mode.crop_growth}
    if distilled:
        settings["loss"] = DISTILLATION
        if trained:
            settings["crop_area"] = DISTILLATION_CROPS * mode.crop_area
    return settings


def is_head_enough(mode, photos, classes):
    """Whether a trained network learns only a new head from these photos, unless an option asks for more.

    Only where the features are means over all pixels: the curve in tests/bench/README.md was measured there.
    """
    return any_size(mode.network(2)) and photos < FINE_TUNING_PHOTOS * classes


def is_uneven(counts):
    """Whether classes with these numbers of photos are balanced, since else rare ones would be forgotten."""
    return bool(max(counts) > UNEVEN * min(counts))


class Stage(NamedTuple):
    """A part of the training, for networks that take photos of any size."""

    until: float                # it ends at this share of the training, 0…1
    side: float                 # the side of its crops, as a share of the photos'
    grown: float                # the share of crop_growth that is reached
    shallow: bool = False       # whether residual bodies are left out


STAGES = (
    Stage(until=0.40, side=2 / 5, grown=0.0, shallow=True),         # only with small_start
    Stage(until=0.75, side=3 / 5, grown=0.3),
    Stage(until=0.92, side=4 / 5, grown=0.6),
    Stage(until=1.00, side=1, grown=1.0),
)
FINE_TUNING_STAGES = (
    Stage(until=0.5, side=4 / 5, grown=0.5),
    Stage(until=1.0, side=1, grown=1.0),
)
DISTILLATION_STAGES = (
    Stage(until=0.6, side=4 / 5, grown=0.0),
    Stage(until=1.0, side=1, grown=0.6),
)


def stages_for(settings):
    """The stages of a run, one after the other."""
    if settings.small_start:
        return STAGES
    return DISTILLATION_STAGES if settings.loss == DISTILLATION else FINE_TUNING_STAGES


def stage_at(t, settings):
    """The stage in force when a share t of the training is done.

    Small crops come first: colours and layout take long to learn, but small pictures show them too, for a
    fraction of the work. At 4/5 of the side, objects are about as large as in the whole photos of the test,
    since a crop shows only part of its photo. The last stage is at full size and may show whole photos, so
    that the network gets used to them.
    Source: Touvron et al., Fixing the Train-Test Resolution Discrepancy (2019); Howard, Training Imagenet in
    3 Hours for 25 Minutes (2018).
    """
    return next(stage for stage in stages_for(settings) if t < stage.until)


def stages_of(network, settings):
    """The (middle, share) of each stage of the training, both 0…1: each stage's steps take their own time."""
    if not any_size(network):
        return [(0.5, 1.0)]
    ends = [0.0, *(stage.until for stage in stages_for(settings))]
    return [((start + end) / 2, end - start) for start, end in pairwise(ends)]


def crop_at(t, network, settings):
    """The side of the crops at a share t of the training, and the least share of a photo that they keep."""
    if not any_size(network):
        return network.image_size, settings.crop_area
    stage = stage_at(t, settings)
    side = network.image_size
    if stage.side < 1:
        side = max(8, round(side * stage.side) // 4 * 4)
    return side, settings.crop_area + stage.grown * settings.crop_growth * (1 - settings.crop_area)


def any_size(network):
    """Whether a network takes photos of any size: after a mean over all pixels, no weight depends on it."""
    return any(isinstance(layer, GlobalAveragePool) for layer in network.layers)


class Plan(NamedTuple):
    """The parts of a training run. They depend on settings and photos, never on the machine."""

    batches: int                # in an epoch
    shards: int                 # in a batch: the parts that one core works on at a time; 1 on a GPU
    steps: int                  # in all
    opening: int                # the first step that trains residual bodies, too


def make_plan(photos, settings):
    """The Plan for this many photos."""
    batches = parts(photos, settings.batch_size)
    shards = min(parts(photos // batches, settings.shard), MOST_SHARDS) if settings.device == "cpu" else 1
    steps = settings.epochs * batches
    opening = math.ceil(STAGES[0].until * steps) if settings.small_start else 0
    return Plan(batches, shards, steps, opening)


def parts(photos, size):
    """How many parts of about this size the photos make. Each gets at least 2 photos, for BatchNorm."""
    return max(1, min(round(photos / size), photos // 2))
