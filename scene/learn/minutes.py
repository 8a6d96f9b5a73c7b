"""Plans a training run for a number of minutes.

A schedule has an end, so the number of steps must be known before the first one: a run that just stopped when
the time is up would stop in the middle. So a few steps of each stage are measured, on a network that is then
thrown away, and as many whole epochs are planned as fit.

Next: folds.py
"""

import time
from statistics import median

import torch

from scene.learn.graph import WARM_UPS
from scene.learn.loop import make_learner, prepare, start
from scene.learn.optim import Muon
from scene.learn.precision import set_precision
from scene.learn.recipe import make_plan, stages_of
from scene.learn.team import make_team

MEASURED = 20               # steps, over all stages


def plan_epochs(network, pixels, labels, settings, seconds, clock=time.perf_counter, team=make_team):
    """How many epochs fit into this time, at least 1, and the seconds that an epoch takes on average.

    The network is a new one, for this alone.   clock: a function that returns seconds. team: as in `train`.
    """
    plan = make_plan(len(labels), settings)
    stages = stages_of(network, settings)
    times = measure(network, pixels, labels, settings, plan, [middle for middle, _ in stages], clock,
                    team)
    epoch = plan.batches * sum(share * median(found) for (_, share), found in zip(stages, times, strict=True))
    return max(1, int(seconds / epoch)), epoch


def measure(network, pixels, labels, settings, plan, moments, clock, team=make_team):
    """The seconds of some steps at each moment of the training, 0…1: a list for each."""
    prepare()
    generator = start(network, pixels, settings, None)
    set_precision(network, settings.precision)
    learn = make_learner(network, pixels, labels, settings, plan)
    batch = torch.randperm(len(labels), generator=generator).tensor_split(plan.batches)[0]
    seeds = torch.randint(1 << 62, (plan.shards,), generator=generator)
    warm_ups = 1 + (WARM_UPS if settings.device == "cuda" else 0)       # on a GPU, also until it is recorded
    times = []
    with team(network, learn, plan.shards) as team:
        optimizer = Muon(network, settings.momentum, settings.decay, settings.norm_rate)
        def step(moment):
            team.step(moment * plan.steps, batch, seeds)
            optimizer.step(0.0)
            return clock()

        for i, moment in enumerate(moments):
            for _ in range(warm_ups):
                begun = step(moment)
            times.append([])
            for _ in range(i, MEASURED, len(moments)):
                ended = step(moment)
                times[-1].append(ended - begun)
                begun = ended
    return times
