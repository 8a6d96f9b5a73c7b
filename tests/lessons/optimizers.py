"""The trials of "momentum" and "muon": the learner's optimizer beside torch's, on the same gradients."""

import torch

from scene.nn.layer import Network
from scene.nn.linear import Linear
from tests.oracle import assert_close, numbers


class Steps:
    """A network, and gradients that are drawn for each step, for an optimizer and for torch's."""

    def __init__(self, layers, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.network = Network(*layers).start(self.generator, dtype=torch.float64)
        self.theirs = {slot.name: array.clone().requires_grad_() for slot, array in self.slots()}

    def slots(self):
        arrays = self.network.arrays()
        return [(slot, arrays[slot.name]) for slot in self.network.parameter_slots]

    def draw(self):
        """New gradients, for both."""
        self.network.grads.normal_(generator=self.generator)
        for slot, _ in self.slots():
            self.theirs[slot.name].grad = getattr(slot.layer, "d" + slot.attribute).clone()

    def take(self, optimizers):
        """torch's step: the vector of parameters that it leads to, in our order."""
        for optimizer in optimizers:
            optimizer.step()
        return self.vector()

    def vector(self):
        return torch.cat([self.theirs[slot.name].detach().flatten() for slot, _ in self.slots()])


def race_steps(kind, sizes):
    """A race: one step of an optimizer on the parameters of an FCNN of these sizes."""
    def race(theirs):
        steps = Steps(map(Linear, sizes, sizes[1:]), 0)
        optimizer = getattr(theirs, kind)(steps.network, decay=0.01)

        def step():
            steps.network.grads.fill_(0.01)         # a step may have overwritten them
            optimizer.step(0.01)

        return step
    return race


def try_optimizer(seen, make_ours, make_theirs, layers, case, lengths=False, **tolerance):
    """Two trials on the same gradients: `direction` with parameters at rest, then `step`.

    With lengths, weights of hidden layers are scaled back to their length √(2 O) after torch's step.
    """
    count, seed, rate = case
    steps = Steps(layers(), seed)
    ours, torchs = make_ours(steps.network), make_theirs(steps, rate)
    rest = steps.network.params.clone()
    for _ in range(count):
        steps.draw()
        seen.note(params=rest, grads=steps.network.grads, velocity=ours.velocity)
        for slot, array in steps.slots():
            steps.theirs[slot.name].data.copy_(array)
        wanted = (rest - steps.take(torchs)) / rate
        assert_close("direction()", ours.direction(), wanted, **tolerance)

    steps = Steps(layers(), seed)
    ours, torchs = make_ours(steps.network), make_theirs(steps, rate)
    for _ in range(count):
        steps.draw()
        seen.note(params=steps.network.params, grads=steps.network.grads, velocity=ours.velocity)
        steps.take(torchs)
        if lengths:
            for slot in ours.hidden:
                w = steps.theirs[slot.name].data
                w *= (2 * len(w)) ** 0.5 / w.norm()
        ours.step(rate)
        assert_close("params after the step", steps.network.params, steps.vector(), **tolerance)


def momentum(theirs, seen, case):
    count, share, nesterov, decay, inputs, seed = case
    nesterov = nesterov and share > 0

    def torchs(steps, rate):
        groups = [{"params": [steps.theirs[slot.name]], "weight_decay": decay if slot.declared.decay else 0}
                  for slot, _ in steps.slots()]
        return [torch.optim.SGD(groups, lr=rate, momentum=share, nesterov=nesterov)]

    seen.clear(f"SGD(network, momentum={share}, decay={decay}, nesterov={nesterov})")
    try_optimizer(seen, lambda network: theirs.SGD(network, share, decay, nesterov), torchs,
                  lambda: [Linear(inputs, 1)], (count, seed, 0.5))


def muon(theirs, seen, case):
    count, rows, columns, share, decay, norm_rate, seed = case
    g = numbers((rows, columns), seed) * 10 ** norm_rate
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    s = s / s.norm()
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    assert_close("orthogonal(g)", theirs.orthogonal(g), u @ s.diag() @ vt, atol=1e-4, rtol=0)

    def torchs(steps, rate):
        hidden = steps.theirs["0.w"]
        last = steps.theirs["1.w"]
        others = [array for name, array in steps.theirs.items() if name.endswith("b")]
        groups = [{"params": [last], "weight_decay": decay}, {"params": others, "lr": rate * norm_rate}]
        return [torch.optim.Muon([hidden], lr=rate, momentum=share, weight_decay=0, ns_steps=3),
                torch.optim.SGD(groups, lr=rate, momentum=share, nesterov=share > 0)]

    seen.clear(f"Muon(network, momentum={share}, decay={decay}, norm_rate={norm_rate})")
    try_optimizer(seen, lambda network: theirs.Muon(network, share, decay, norm_rate), torchs,
                  lambda: [Linear(columns, rows), Linear(rows, 2)], (count, seed, 0.5), lengths=True,
                  atol=0.04, rtol=0)            # torch computes it in bfloat16
