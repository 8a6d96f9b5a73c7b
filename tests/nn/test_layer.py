"""The flat vectors, the layers made of layers, and how a layer remembers its constructor call."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.layer import Layer, Network, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.norm import BatchNorm
from tests import oracle
from tests.strategies import images, seeds, sizes


@given(images(), seeds)
def test_residual_is_that_of_torch(shape, seed):
    oracle.check(Residual(ReLU()), lambda x: F.relu(x) + x, shape, seed)


@given(sizes, sizes, seeds)
def test_sequential_goes_back_in_reverse(n, width, seed):
    layer = oracle.prepare(Sequential(Linear(width, 5), ReLU(), Linear(5, 2)), seed)
    first, last = layer.layers[0], layer.layers[2]
    x = oracle.numbers((n, width), seed).requires_grad_()
    dy = oracle.numbers((n, 2), seed + 1)
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
    assert list(net.arrays()) == [
        "0.w", "3.body.w", "3.shortcut.w", "0.b", "1.w", "1.b", "3.body.b", "3.shortcut.b", "1.mean", "1.var"]
    assert sum(array.numel() for array in net.arrays().values()) == net.size + net.state_size


def test_start_draws_what_the_layers_declare():
    net = Network(Linear(1000, 500), BatchNorm(500), Conv2d(20, 500, 5))
    net.start(torch.Generator().manual_seed(0))
    linear, norm, convolution = net.layers
    assert abs(linear.w.std() - (2 / 1000) ** 0.5) < 0.0005 and abs(linear.w.mean()) < 0.0005
    assert abs(convolution.w.std() - (2 / 500) ** 0.5) < 0.0005 and abs(convolution.w.mean()) < 0.0005
    assert linear.b.abs().max() == 0
    assert norm.w.unique().tolist() == norm.var.unique().tolist() == [1]
    assert norm.b.unique().tolist() == norm.mean.unique().tolist() == [0]


def test_the_first_layer_that_learns_computes_no_dx():
    net = network()
    y = net.forward(torch.arange(96.0).reshape(2, 4, 4, 3), training=True)  # equal photos have no gradient
    assert net.backward(y) is None
    assert net.layers[0].dw.abs().sum() > 0


def test_a_shortcut_that_alone_learns():
    net = Network(Residual(Flatten(), Linear(4, 4))).start(torch.Generator().manual_seed(0))
    y = net.forward(torch.ones(2, 4), training=True)
    assert net.backward(y) is None
    assert net.layers[0].shortcut.dw.abs().sum() > 0


def test_residual_names_both_shapes():
    with pytest.raises(ValueError, match=r"its body's \(2, 3\) to its shortcut's \(2, 4\)"):
        oracle.prepare(Residual(Linear(4, 3))).forward(oracle.numbers((2, 4)))


def test_a_layer_without_formulas_says_so():
    with pytest.raises(TypeError, match="Layer has no forward pass"):
        Layer().forward(None)
    with pytest.raises(TypeError, match="Layer has no backward pass"):
        Layer().backward(None)


def small(classes, width=4):
    return Network(Linear(3, width), BatchNorm(width), ReLU(), Linear(width, width), Linear(width, classes))


def test_reuse_copies_all_that_fits_except_the_last_layer():
    teacher = small(2).start(torch.Generator().manual_seed(0))
    pupil = small(2).start(torch.Generator().manual_seed(1))
    teacher.place(teacher.params.numpy(), teacher.state.normal_().numpy())      # the teacher may be on NumPy
    before = {name: array.clone() for name, array in pupil.arrays().items()}
    names = pupil.reuse(teacher)
    assert names == ["0.w", "3.w", "0.b", "1.w", "1.b", "3.b", "1.mean", "1.var"]
    for name, array in pupil.arrays().items():
        expected = torch.from_numpy(teacher.arrays()[name]) if name in names else before[name]
        assert torch.equal(array, expected), name


def test_reuse_skips_arrays_of_another_shape():
    teacher = small(2, 5).start(torch.Generator())
    pupil = small(3).start(torch.Generator())
    before = pupil.params.clone()
    assert pupil.reuse(teacher) == [] and torch.equal(pupil.params, before)


def test_call_holds_the_arguments_as_given():
    assert Conv2d(3, 4, kernel=5, bias=False).call == ((3, 4), {"kernel": 5, "bias": False})
    assert ReLU().call == ((), {})
    body, shortcut = ReLU(), Flatten()
    assert Residual(body, shortcut=shortcut).call == ((body,), {"shortcut": shortcut})


def test_arguments_include_the_defaults_in_order():
    assert list(Conv2d(3, kernel=5, outputs=4, bias=False).arguments().items()) == [
        ("inputs", 3), ("outputs", 4), ("kernel", 5), ("stride", 1), ("padding", 0), ("bias", False)]
    assert BatchNorm(4).arguments() == {"channels": 4, "momentum": 0.1, "epsilon": 1e-5}
    assert ReLU().arguments() == {}


LINEAR = "Linear(inputs=2, outputs=2)"


@pytest.mark.parametrize(("layer", "call"), [
    (ReLU(), "ReLU()"),
    (Conv2d(3, kernel=5, outputs=4),
     "Conv2d(inputs=3, outputs=4, kernel=5, stride=1, padding=0, bias=True)"),
    (Sequential(), "Sequential()"),
    (Sequential(Linear(2, 2), ReLU()), f"Sequential({LINEAR}, ReLU())"),
    (Residual(ReLU(), Linear(2, 2)), f"Residual(body=ReLU(), shortcut={LINEAR})"),
    (Residual(Sequential(Linear(2, 2), Residual(ReLU()))),
     f"Residual(body=Sequential({LINEAR}, Residual(body=ReLU(), shortcut=None)), shortcut=None)"),
    (Network(Linear(2, 2), Sequential(ReLU())), f"Network({LINEAR}, Sequential(ReLU()))"),
])
def test_repr_is_the_constructor_call_with_every_argument(layer, call):
    assert repr(layer) == call


def test_a_copy_and_its_call_hold_the_same_inner_layers():
    copied = copy.deepcopy(Residual(Sequential(ReLU()), Linear(2, 2)))
    (body, shortcut), _ = copied.call
    assert body is copied.body and shortcut is copied.shortcut
    assert body.call[0][0] is body.layers[0]


@pytest.mark.parametrize("make", [lambda: ReLU(1), lambda: Flatten(inputs=2), lambda: Linear(2)])
def test_arguments_that_a_layer_does_not_take_are_refused(make):
    with pytest.raises(TypeError):
        make()


class Tiny(Network):
    def __init__(self, classes, image_size=8, widths=(4, 5), *, dropout=0.5):
        super().__init__(Flatten(), Linear(image_size * image_size * 3, classes))


@pytest.mark.parametrize(("network", "architecture"), [
    (Tiny(2), {"image_size": 8, "widths": [4, 5], "dropout": 0.5}),
    (Tiny(classes=2, widths=[6]), {"image_size": 8, "widths": [6], "dropout": 0.5}),
    (Tiny(2, 9, (), dropout=0.1), {"image_size": 9, "widths": [], "dropout": 0.1}),
])
def test_architecture_is_every_argument_but_the_classes(network, architecture):
    assert network.architecture == architecture
    assert json.loads(json.dumps(architecture)) == architecture
    again = type(network)(7, **architecture)
    assert again.architecture == architecture
    assert again.layers[0].arguments() == network.layers[0].arguments()
