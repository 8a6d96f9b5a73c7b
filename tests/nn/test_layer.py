"""The flat vectors, and layers made of layers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.layer import Layer, Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.strategies import images, seeds, sizes


@given(images(), seeds)
def test_residual_is_that_of_torch(shape, seed):
    oracle.check(Residual(ReLU()), lambda x: F.relu(x) + x, shape, seed)


@given(sizes, sizes, seeds)
def test_a_closed_residual_is_its_short_cut_in_training(n, width, seed):
    layer = oracle.prepare(Residual(Sequential(Linear(width, 5), ReLU(), Linear(5, width)), Linear(width, width)), seed)
    x, dy = oracle.numbers((n, width), seed), oracle.numbers((n, width), seed + 1)
    opened = layer.forward(x)
    layer.forward(x, training=True)
    layer.backward(dy)                                          # leaves gradients in the body
    layer.close()
    assert torch.equal(layer.forward(x, training=True), layer.shortcut.forward(x, training=True))
    assert torch.equal(layer.backward(dy), layer.shortcut.backward(dy))
    first, _, last = layer.body.layers
    assert not any(gradient.any() for gradient in (first.dw, first.db, last.dw, last.db))
    assert torch.equal(layer.forward(x), opened)                # the body is part of every prediction


@given(sizes, sizes, seeds)
def test_sequential_goes_back_in_reverse(n, width, seed):
    layer = oracle.prepare(Sequential(Linear(width, 5), ReLU(), Linear(5, 2)), seed)
    first, last = layer.layers[0], layer.layers[2]
    x, dy = oracle.numbers((n, width), seed).requires_grad_(), oracle.numbers((n, 2), seed + 1)
    y = F.linear(F.relu(F.linear(x, first.w, first.b)), last.w, last.b)
    torch.testing.assert_close(layer.forward(x.detach(), training=True), y.detach())
    torch.testing.assert_close(layer.backward(dy), torch.autograd.grad(y, x, dy)[0])


def network():
    return Network(Conv2d(3, 4, 3), BatchNorm(4), Flatten(), Residual(Linear(16, 16), Linear(16, 16))).start(
        torch.Generator().manual_seed(0))


def test_weights_lie_before_biases_and_norms():
    net = network()
    decayed = 4 * 3 * 3 * 3 + 2 * 16 * 16
    assert (net.decayed, net.size, net.state_size) == (decayed, decayed + 4 + 2 * 4 + 2 * 16, 2 * 4)
    net.params[:net.decayed] = 1
    net.params[net.decayed:] = 2
    assert all(net.arrays()[name].unique().tolist() == [1] for name in ("0.w", "3.body.w", "3.shortcut.w"))
    assert net.layers[1].w.unique().tolist() == net.layers[1].b.unique().tolist() == [2]


def test_views_share_the_flat_vectors():
    net = network()
    net.params.fill_(7)
    net.grads.fill_(8)
    net.state.fill_(9)
    for _, layer in net.walk():
        for key in layer.parameters:
            assert getattr(layer, key).unique().tolist() == [7]
            assert getattr(layer, "d" + key).unique().tolist() == [8]
        for key in layer.statistics:
            assert getattr(layer, key).unique().tolist() == [9]


def test_every_number_has_one_name():
    net = network()
    assert list(net.arrays()) == ["0.w", "3.body.w", "3.shortcut.w", "0.b", "1.w", "1.b", "3.body.b", "3.shortcut.b", "1.mean", "1.var"]
    assert sum(array.numel() for array in net.arrays().values()) == net.size + net.state_size


def test_start_draws_what_the_layers_asked_for():
    net = Network(Linear(1000, 500), BatchNorm(500)).start(torch.Generator().manual_seed(0))
    linear, norm = net.layers
    assert abs(linear.w.std() - (2 / 1000) ** 0.5) < 0.0005 and abs(linear.w.mean()) < 0.0005
    assert linear.b.abs().max() == 0
    assert norm.w.unique().tolist() == norm.var.unique().tolist() == [1]
    assert norm.b.unique().tolist() == norm.mean.unique().tolist() == [0]


def test_the_first_layer_that_learns_computes_no_dx():
    net = network()
    y = net.forward(torch.ones(2, 4, 4, 3), training=True)
    assert net.backward(y) is None
    assert net.layers[0].dw.abs().sum() > 0


def test_a_short_cut_that_alone_learns():
    net = Network(Residual(Flatten(), Linear(4, 4))).start(torch.Generator().manual_seed(0))
    y = net.forward(torch.ones(2, 4), training=True)
    assert net.backward(y) is None
    assert net.layers[0].shortcut.dw.abs().sum() > 0


def test_residual_names_both_shapes():
    with pytest.raises(ValueError, match=r"its body's \(2, 3\) to its short cut's \(2, 4\)"):
        oracle.prepare(Residual(Linear(4, 3))).forward(oracle.numbers((2, 4)))


def test_a_layer_without_formulas_says_so():
    with pytest.raises(TypeError, match="Layer has no forward pass"):
        Layer().forward(None)
    with pytest.raises(TypeError, match="Layer has no backward pass"):
        Layer().backward(None)


def small(classes, width=4):
    return Network(Linear(3, width), BatchNorm(width), ReLU(), Linear(width, width), Linear(width, classes))


def test_reuse_takes_all_that_fits_but_the_last_layer():
    teacher, pupil = small(2), small(2).start(torch.Generator().manual_seed(1))
    teacher.start(torch.Generator().manual_seed(0))
    teacher.place(teacher.params.numpy(), teacher.state.normal_().numpy())          # the teacher may be on NumPy
    before = {name: array.clone() for name, array in pupil.arrays().items()}
    names = pupil.reuse(teacher)
    assert names == ["0.w", "3.w", "0.b", "1.w", "1.b", "3.b", "1.mean", "1.var"]
    for name, array in pupil.arrays().items():
        expected = torch.from_numpy(teacher.arrays()[name]) if name in names else before[name]
        assert torch.equal(array, expected), name


def test_reuse_leaves_what_has_another_shape():
    teacher, pupil = small(2, 5).start(torch.Generator()), small(3).start(torch.Generator())
    before = pupil.params.clone()
    assert pupil.reuse(teacher) == [] and torch.equal(pupil.params, before)


def test_a_frozen_network_predicts_the_same_until_it_is_placed_anew():
    network = Network(WinogradConv2d(2, 3), BatchNorm(3)).start(torch.Generator().manual_seed(0))
    x = torch.randn(2, 5, 6, 2)
    network.state.uniform_(0.5, 2)
    y = network.forward(x)
    network.freeze()
    torch.testing.assert_close(network.forward(x), y, rtol=1e-4, atol=1e-4)     # rounding: the norm is in the convolution's weights now
    y = network.forward(x)
    network.params.mul_(2)
    assert torch.equal(network.forward(x), y)               # that is what frozen means
    network.place(network.params, network.state)
    assert not torch.allclose(network.forward(x), y)


@pytest.mark.parametrize("layer", [Conv2d(2, 3, 3, padding=1), Conv2d(2, 3, 3, padding=1, bias=False),
                                   WinogradConv2d(2, 3), WinogradConv2d(2, 3, bias=False)])
def test_a_frozen_convolution_does_the_norm_behind_it(layer):
    network = Network(layer, BatchNorm(3)).start(torch.Generator().manual_seed(0))
    network.params.normal_(generator=torch.Generator().manual_seed(1))
    network.state.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 5, 6, 2)
    y = network.forward(x)
    network.freeze()
    torch.testing.assert_close(network.forward(x), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.forward(x), y, rtol=1e-4, atol=1e-4)       # all of it: the norm has nothing left to do


def test_a_norm_at_the_start_of_a_detour_stays_where_it_is():
    conv = Conv2d(2, 2, 3, padding=1)
    network = Network(conv, Residual(Sequential(BatchNorm(2)))).start(torch.Generator().manual_seed(0))
    network.state.uniform_(0.5, 2)
    x = torch.randn(2, 5, 6, 2)
    y = network.forward(x)
    network.freeze()
    torch.testing.assert_close(network.forward(x), y)       # the short cut takes the convolution's output too
