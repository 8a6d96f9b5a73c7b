"""Whole networks: their size, their torch.nn twins, and that they learn."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.learn.optim import SGD, Muon
from scene.models import CNN, FCNN, MODES
from scene.nn.dropout import Dropout
from scene.nn.fold import fold
from scene.nn.layer import Sequential
from scene.nn.linear import Linear
from scene.nn.loss import CrossEntropy
from scene.nn.normalize import Normalize
from tests import jobs
from tests.strategies import seeds
from tests.twins import TWINS, layer_classes, original_cnn, original_fcnn, twin

every_mode = pytest.mark.parametrize("mode", MODES)


def make(mode, *arguments, dropout=False):
    """A network of this mode, not started yet. By default its dropout layers are switched off."""
    network = MODES[mode].network(*arguments)
    for _, layer in network.walk():
        if isinstance(layer, Dropout) and not dropout:
            layer.rate = 0
    return network


def start(network, seed=0):
    return network.start(torch.Generator().manual_seed(seed))


def randomize(network):
    """Moves every parameter and statistic away from where it starts, so that none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    network.params += torch.rand(network.size, generator=generator) / 100
    network.state += torch.rand(network.state_size, generator=generator) / 4
    return network


def photos(n, size, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(256, (n, size, size, 3), generator=generator, dtype=torch.uint8).float(),
            torch.randint(classes, (n,), generator=generator))


def test_parameter_counts():
    assert original_fcnn().size == 3072 * 25 + 25 + 25 * 1000 + 1000 + 1000 * 5 + 5
    hidden = 24 * 24 * 3 * 384 + 384 + 2 * 384 + 384 * 256 + 256 + 2 * 256
    assert FCNN(10).size == hidden + 256 * 10 + 10 == 766_346
    assert FCNN(10).state_size == 2 * 3 + 2 * 384 + 2 * 256
    stem, blocks = 4 * 4 * 3 * 32 + 2 * 32, 0
    for inputs, outputs in ((32, 48), (48, 128)):
        blocks += 9 * inputs * outputs + 2 * 9 * outputs * outputs + 3 * 2 * outputs
    assert CNN(10).size == stem + blocks + 128 * 10 + 10 == 409_450
    assert original_cnn().size == 5 * 5 * 3 * 6 + 6 + 5 * 5 * 6 * 16 + 16 + 5 * 5 * 16 * 5 + 5


@every_mode
def test_a_network_begins_with_normalize_and_ends_in_linear(mode):
    network = make(mode, 7)
    first, *_, last = network.layers
    assert type(first) is Normalize and first.channels == 3
    assert type(last) is Linear and last.outputs == 7


@every_mode
def test_a_network_is_made_again_from_its_architecture(mode):
    network = make(mode, 7, 40)
    assert network.image_size == network.architecture["image_size"] == 40
    architecture = json.loads(json.dumps(network.architecture))
    again = MODES[mode].network(7, **architecture)
    assert again.architecture == network.architecture == architecture
    assert [repr(layer) for layer in again.layers] == [repr(layer) for layer in network.layers]


def test_every_layer_has_a_twin():
    assert {cls for cls in layer_classes().values() if not issubclass(cls, Sequential)} == TWINS.keys()


@every_mode
@pytest.mark.parametrize("change", [lambda network: network, fold], ids=["as trained", "folded"])
def test_evaluation_is_that_of_the_twin(mode, change):
    network = change(randomize(start(make(mode, 5, dropout=True))))
    pixels, _ = photos(3, MODES[mode].image_size, 5)
    with torch.no_grad():
        wanted = twin(network).eval()(pixels)
    torch.testing.assert_close(network.forward(pixels), wanted, atol=1e-4, rtol=1e-4)


NETWORKS = {"original FCNN": (original_fcnn, 32), "original CNN": (original_cnn, 32)} | {
    mode: (lambda mode=mode: make(mode, 5), entry.image_size) for mode, entry in MODES.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_are_those_of_the_twin_for_twenty_steps(name):
    build, size = NETWORKS[name]
    ours = start(build())
    theirs = twin(ours).train()
    loss, optimizer = CrossEntropy(0.1), SGD(ours, decay=0)
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    pixels, labels = photos(16, size, 5)
    for _ in range(20):
        value = loss.forward(ours.forward(pixels, training=True), labels)
        ours.backward(loss.backward())
        optimizer.step(0.01)
        their_value = F.cross_entropy(theirs(pixels), labels, label_smoothing=0.1)
        their_optimizer.zero_grad()
        their_value.backward()
        their_optimizer.step()
        torch.testing.assert_close(value, their_value.detach(), atol=1e-4, rtol=1e-4)


def memorises(network, pixels, labels, steps=60):
    loss, optimizer = CrossEntropy(), SGD(network)
    for _ in range(steps):
        loss.forward(network.forward(pixels, training=True), labels)
        network.backward(loss.backward())
        optimizer.step(0.02)
    return torch.equal(network.forward(pixels, training=True).argmax(1), labels)


@every_mode
def test_every_network_learns(mode):
    pixels, labels = jobs.photos(16, 32, 3)         # brighter and darker noise
    assert memorises(start(make(mode, 3, 32)), pixels, labels)


@pytest.mark.parametrize("network", [FCNN(4, 16, dropout=0), CNN(4, 32)], ids=["FCNN", "CNN"])
def test_a_batch_of_noise_can_be_memorised(network):
    """Memorising noise takes many weights, so this is not a test for every network."""
    assert memorises(start(network), *photos(16, network.image_size, 4))


@every_mode
def test_a_step_creates_no_array_on_another_device(mode):
    """torch's device `meta` computes shapes only. Like a GPU, it refuses to mix with arrays on the CPU."""
    def vector(size):
        return torch.empty(size, device="meta")

    network = make(mode, 3)
    network.place(vector(network.size), vector(network.state_size), vector(network.size))
    pixels = vector((4, network.image_size, network.image_size, 3)).byte()
    loss, optimizer = CrossEntropy(0.1), Muon(network)
    value = loss.forward(network.forward(pixels, training=True), vector(4).long())
    network.backward(loss.backward())
    optimizer.step(0.1)
    assert value.is_meta and network.forward(pixels).is_meta
    assert fold(network).forward(pixels).is_meta


@given(st.sampled_from(list(MODES)), st.integers(2, 300), st.integers(8, 100), seeds)
@settings(max_examples=25)
def test_any_number_of_classes_and_any_image_size(mode, classes, size, seed):
    network = start(make(mode, classes, size, dropout=True), seed)
    pixels, _ = photos(2, size, classes, seed)
    z = network.forward(pixels, training=True)
    assert z.shape == (2, classes) and z.isfinite().all()
    network.backward(torch.ones_like(z))
    assert network.grads.isfinite().all()


@every_mode
def test_numpy_predicts_what_torch_predicts(mode):
    network = start(make(mode, 7, dropout=True))
    pixels, _ = photos(3, network.image_size, 7)
    z = network.forward(pixels.byte())
    network.place(network.params.numpy(), network.state.numpy())
    on_numpy = network.forward(pixels.byte().numpy())
    assert on_numpy.dtype == np.float32
    np.testing.assert_allclose(on_numpy, z.numpy(), atol=1e-4)
