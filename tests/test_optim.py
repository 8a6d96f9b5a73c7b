"""Optimizers against torch.optim, over many steps, and schedules against their definitions."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene.learn import optim
from scene.learn.optim import SGD, Adam, Muon, cosine, one_cycle, orthogonal
from scene.nn.layer import Network
from scene.nn.linear import Linear
from scene.nn.norm import BatchNorm
from tests.strategies import seeds

rates = st.floats(1e-4, 1)
shares = st.floats(0, 1)


def race(make_ours, make_theirs, decay, seed, steps=10):
    """Both optimizers take the same steps with the same random gradients. Returns the parameters of each."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(Linear(3, 4), BatchNorm(4)).start(generator, dtype=torch.float64)
    n = network.decayed
    weights = network.params[:n].clone().requires_grad_()
    others = network.params[n:].clone().requires_grad_()
    ours = make_ours(network)
    theirs = make_theirs([
        {"params": [weights], "weight_decay": decay}, {"params": [others], "weight_decay": 0}])
    for step in range(steps):
        network.grads.normal_(generator=generator)
        weights.grad = network.grads[:n].clone()
        others.grad = network.grads[n:].clone()
        rate = 0.1 / (step + 1)
        for group in theirs.param_groups:
            group["lr"] = rate
        ours.step(rate)
        theirs.step()
    return network.params, torch.cat([weights, others]).detach()


@given(shares.filter(lambda m: m < 1), st.booleans(), rates, seeds)
def test_sgd_is_that_of_torch(momentum, nesterov, decay, seed):
    nesterov = nesterov and momentum > 0
    torch.testing.assert_close(*race(
        lambda network: SGD(network, momentum, decay, nesterov),
        lambda groups: torch.optim.SGD(groups, lr=1, momentum=momentum, nesterov=nesterov), decay, seed))


@given(st.floats(0, 0.99), st.floats(0.5, 0.999), rates, seeds)
def test_adam_is_adamw_of_torch(beta1, beta2, decay, seed):
    torch.testing.assert_close(*race(
        lambda network: Adam(network, (beta1, beta2), decay=decay),
        lambda groups: torch.optim.AdamW(groups, lr=1, betas=(beta1, beta2)), decay, seed))


def test_defaults_are_those_of_the_papers():
    nesterov = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    for ours, theirs in (Adam, torch.optim.Adam), (SGD, nesterov), (Muon, nesterov):
        # Muon's only weights are those of the last layer, for which it is SGD.
        torch.testing.assert_close(*race(ours, theirs, 0, 1))


@given(st.integers(1, 12), st.integers(1, 12), st.floats(1e-6, 1e6), seeds)
def test_orthogonal_keeps_the_directions_and_evens_the_lengths(rows, columns, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    along = u.T @ orthogonal(g, steps=5) @ vt.T                  # diagonal along the singular vectors of g
    lengths = along.diagonal()
    torch.testing.assert_close(along, lengths.diag(), atol=1e-6, rtol=0)
    strong = s > 0.02 * s.norm()
    assert ((lengths > 0.6) & (lengths < 1.3))[strong].all()
    assert ((lengths >= 0) & (lengths < 1.3)).all()


@given(st.floats(0, 0.95), rates, st.floats(0.5, 8), seeds)
def test_muon_is_that_of_torch_for_hidden_weights_and_sgd_for_the_others(momentum, decay, norm_rate, seed):
    generator = torch.Generator().manual_seed(seed)
    network = Network(Linear(3, 5), Linear(5, 8), Linear(8, 4), Linear(4, 2)).start(generator)
    hidden = network.layers[:3]
    theirs = [layer.w.clone().requires_grad_() for layer in hidden]
    others = [slot for slot in network.parameter_slots if slot.name not in ("0.w", "1.w", "2.w")]
    plain = [slot.layer.__dict__[slot.attribute].clone().requires_grad_() for slot in others]
    muon = torch.optim.Muon(theirs, lr=0.1, momentum=momentum, weight_decay=0, ns_steps=3)
    groups = [{"params": plain[:1], "weight_decay": decay}, {"params": plain[1:], "lr": 0.1 * norm_rate}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=momentum > 0)
    ours = Muon(network, momentum, decay, norm_rate)       # decays only the last layer's weights
    for _ in range(5):
        network.grads.normal_(generator=generator)
        for weight, layer in zip(theirs, hidden, strict=True):
            weight.grad = layer.dw.clone()
        for weight, slot in zip(plain, others, strict=True):
            weight.grad = slot.layer.__dict__["d" + slot.attribute].clone()
        for optimizer in (muon, sgd):
            optimizer.step()
        for weight in theirs:
            weight.data *= (2 * len(weight)) ** 0.5 / weight.data.norm()
        ours.step(0.1)
    for weight, layer in zip(theirs, hidden, strict=True):      # torch computes these in bfloat16
        torch.testing.assert_close(layer.w, weight.detach(), atol=0.02, rtol=0)
    for weight, slot in zip(plain, others, strict=True):
        torch.testing.assert_close(slot.layer.__dict__[slot.attribute], weight.detach())


@pytest.mark.parametrize("resting", [(), (1,), (0, 2), (0, 1, 2)])
def test_muon_computes_no_orthogonal_step_for_resting_layers(resting, monkeypatch):
    """Their weights become exactly those of a step with zero gradient and zero velocity."""
    calls = []

    def counted(g):
        calls.append(g)
        return orthogonal(g)

    monkeypatch.setattr(optim, "orthogonal", counted)
    sizes = [8, 6, 5, 4, 3]             # shrinking: `orthogonal` would call itself for a tall matrix
    networks = [Network(*map(Linear, sizes, sizes[1:])).start(torch.Generator().manual_seed(0)) for _ in "ab"]
    optimizers = [Muon(network, decay=0.1, norm_rate=4) for network in networks]
    for step in range(3):
        for network in networks:
            network.grads.normal_(generator=torch.Generator().manual_seed(step))
            for i in resting:
                network.layers[i].dw.zero_()
        layers = [networks[0].layers[i] for i in resting]
        kept = [layer.w * ((2 * len(layer.w)) ** 0.5 / layer.w.norm()) for layer in layers]
        calls.clear()
        optimizers[0].step(0.1, resting=layers)
        assert len(calls) == 3 - len(resting)
        optimizers[1].step(0.1)
        assert torch.equal(networks[0].params, networks[1].params)
        assert all(torch.equal(layer.w, w) for layer, w in zip(layers, kept, strict=True))


@given(shares)
def test_cosine_is_its_definition(t):
    assert cosine(t) == pytest.approx(0.5 * (1 + math.cos(math.pi * t)))


def test_one_cycle_rises_then_falls():
    rates = [one_cycle(i / 1000) for i in range(1001)]
    assert rates[0] == pytest.approx(1 / 25) and rates[100] == 1 and rates[1000] == 0
    assert rates[:101] == sorted(rates[:101]) and rates[100:] == sorted(rates[100:], reverse=True)
