"""Whole networks: their size, their torch.nn twins, and that they learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.models import CNN, FCNN
from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.layer import Network
from scene.nn.linear import Flatten, Linear
from scene.nn.loss import CrossEntropy
from scene.nn.normalize import Normalize
from scene.nn.pool import MaxPool2d
from scene.optim import SGD, Muon
from tests.strategies import seeds
from tests.twins import twin


def original_fcnn():
    """The network that Scene began with: 3072-25-1000-5."""
    return Network(Normalize(), Flatten(), Linear(3072, 25), ReLU(), Linear(25, 1000), ReLU(), Linear(1000, 5))


def original_cnn():
    """Two 5x5 convolutions with 6 and 16 channels, on 32x32."""
    return Network(Normalize(), Conv2d(3, 6, 5), MaxPool2d(2), ReLU(), Conv2d(6, 16, 5), MaxPool2d(2), ReLU(), Flatten(), Linear(400, 5))


def start(network, seed=0):
    return network.start(torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("make, size", [(original_fcnn, 32), (original_cnn, 32), (lambda: FCNN(5, dropout=0), 24), (lambda: CNN(5), 80)],
                         ids=["original FCNN", "original CNN", "FCNN", "CNN"])
def test_losses_are_those_of_the_twin_for_twenty_steps(make, size):
    ours = start(make())
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


@pytest.mark.parametrize("network", [FCNN(4, 16, dropout=0), CNN(4, 32)], ids=["FCNN", "CNN"])
def test_one_batch_can_be_learnt_by_heart(network):
    start(network)
    loss, optimizer = CrossEntropy(), SGD(network)
    pixels, labels = photos(16, network.image_size, 4)
    for _ in range(60):
        loss.forward(network.forward(pixels, training=True), labels)
        network.backward(loss.backward())
        optimizer.step(0.02)
    assert torch.equal(network.forward(pixels, training=True).argmax(1), labels)


@pytest.mark.parametrize("network", [FCNN(3, dropout=0), CNN(3)], ids=["FCNN", "CNN"])
def test_a_step_makes_nothing_on_another_device(network):
    """torch's device `meta` computes shapes only, but like a GPU it refuses to meet arrays of the CPU."""
    def vector(size):
        return torch.empty(size, device="meta")

    network.place(vector(network.size), vector(network.state_size), vector(network.size))
    loss, optimizer, pixels = CrossEntropy(0.1), Muon(network), vector((4, network.image_size, network.image_size, 3)).byte()
    value = loss.forward(network.forward(pixels, training=True), vector(4).long())
    network.backward(loss.backward())
    optimizer.step(0.1)
    network.freeze()
    assert value.is_meta and network.forward(pixels).is_meta


@given(st.sampled_from([FCNN, CNN]), st.integers(2, 300), st.integers(8, 100), seeds)
@settings(max_examples=25)
def test_any_number_of_classes_and_any_image_size(kind, classes, size, seed):
    network = start(kind(classes, size), seed)
    pixels, _ = photos(2, size, classes, seed)
    z = network.forward(pixels, training=True)
    assert z.shape == (2, classes) and z.isfinite().all()
    network.backward(torch.ones_like(z))
    assert network.grads.isfinite().all()


@pytest.mark.parametrize("network", [FCNN(7), CNN(7)], ids=["FCNN", "CNN"])
def test_numpy_predicts_what_torch_predicts(network):
    start(network)
    pixels, _ = photos(3, network.image_size, 7)
    z = network.forward(pixels.byte())
    network.place(network.params.numpy(), network.state.numpy())
    on_numpy = network.forward(pixels.byte().numpy())
    assert on_numpy.dtype == np.float32
    np.testing.assert_allclose(on_numpy, z.numpy(), atol=1e-4)
