"""Mixed precision: large products in bfloat16, everything else in float32."""

import signal
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.learn.loop import train
from scene.learn.optim import SGD
from scene.learn.precision import LEAST, fastest, set_precision
from scene.models import CNN, FCNN, MODES
from scene.nn import winograd
from scene.nn.conv import Conv2d
from scene.nn.layer import Layer, Network, Parameter
from scene.nn.linear import Linear
from scene.nn.loss import CrossEntropy
from scene.nn.winograd import WinogradConv2d
from tests import oracle
from tests.jobs import main_job, make_photos, make_settings, photos, start_job
from tests.strategies import seeds
from tests.twins import twin

# A layer, the shape of its input, and the errors that it may have, relative to the norm of what is computed.
LAYERS = {
    "Linear": (lambda: Linear(40, 50), (60, 40), 0.005),
    "Conv2d": (lambda: Conv2d(5, 40, 4, stride=2, padding=1), (6, 16, 16, 5), 0.005),
    "Winograd, tiles of 2": (lambda: WinogradConv2d(32, 40), (6, 2, 2, 32), 0.01),
    "Winograd, tiles of 3": (lambda: WinogradConv2d(32, 40), (6, 6, 6, 32), 0.015),
    "Winograd, tiles of 4": (lambda: WinogradConv2d(32, 40), (6, 8, 8, 32), 0.02),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def error(ours, exact):
    """The error of an array, relative to its norm."""
    return ((ours.double() - exact).norm() / exact.norm()).item()


def both(make, shape, seed, operands=torch.bfloat16):
    """A layer in float64 and the same layer in mixed precision: [(y, dx, {name: gradient})] of each."""
    exact, mixed = oracle.prepare(make(), seed), oracle.prepare(make(), dtype=torch.float32)
    for name in exact.parameters:
        getattr(mixed, name)[...] = getattr(exact, name)
    mixed.operands = operands
    x = oracle.numbers(shape, seed)
    dy = oracle.numbers(exact.forward(x).shape, seed + 1)
    results = []
    for layer, dtype in (exact, torch.float64), (mixed, torch.float32):
        y = layer.forward(x.to(dtype), training=True)
        dx = layer.backward(dy.to(dtype))
        results.append((y, dx, {name: getattr(layer, "d" + name) for name in layer.parameters}))
    return results


@every_layer
@given(seeds)
@settings(max_examples=5)
def test_a_layer_rounds_its_operands_and_nothing_else(name, seed):
    make, shape, bound = LAYERS[name]
    (y, dx, gradients), (our_y, our_dx, ours) = both(make, shape, seed)
    assert {our_y.dtype, our_dx.dtype, *(gradient.dtype for gradient in ours.values())} == {torch.float32}
    assert 1e-4 < error(our_y, y) < bound and 1e-4 < error(our_dx, dx) < bound
    assert 1e-4 < error(ours["w"], gradients["w"]) < bound
    assert error(ours["b"], gradients["b"]) < 1e-5


@pytest.mark.parametrize("make, shape", [
    (lambda: Conv2d(8, 32, 3, padding=1), (400, 8, 8, 8)),
    (lambda: WinogradConv2d(32, 32), (400, 2, 2, 32)),
])
def test_sums_over_the_slices_of_a_batch_are_in_float32(make, shape, monkeypatch):
    """In bfloat16 they would stop growing: 256 + 1 is 256 there."""
    monkeypatch.setattr("scene.nn.conv.PATCH_BYTES", 1)       # a slice for each image
    monkeypatch.setattr("scene.nn.winograd.TILE_BYTES", 1)
    layer = oracle.prepare(make(), dtype=torch.float32)
    layer.operands = torch.bfloat16
    layer.forward(torch.ones(shape), training=True)
    layer.backward(torch.ones(*shape[:3], 32))
    _, h, w, _ = shape
    # Every pixel is under the middle of the kernel once.
    assert layer.dw[:, 1, 1].unique().tolist() == [400 * h * w]


def test_evaluation_does_not_round():
    pixels, _ = photos(4, 32)
    network = CNN(3, 32).start(torch.Generator())
    before = network.forward(pixels)
    set_precision(network, "bfloat16")
    assert torch.equal(network.forward(pixels), before)


@given(st.sampled_from(winograd.NARROW_TILES), st.integers(1, 20))
def test_the_matrices_of_winograd_are_exact_in_bfloat16(tile, length):
    exact = winograd.bands(length, tile, torch.empty(0, dtype=torch.float64))
    rounded = winograd.bands(length, tile, torch.empty(0, dtype=torch.bfloat16))
    for ours, theirs in zip(rounded, exact, strict=True):
        assert torch.equal(ours.double(), theirs)


def test_only_large_products_are_rounded():
    class Odd(Layer):
        parameters = {"w": Parameter((LEAST, LEAST))}           # a parameter, but no weight matrix

    layers = [Linear(LEAST, LEAST), Linear(LEAST - 1, LEAST), Conv2d(2, LEAST, 4), Conv2d(1, LEAST, 4),
              Odd()]
    network = Network(*layers)
    set_precision(network, "bfloat16")
    assert [layer.operands is not None for layer in layers] == [True, False, True, False, False]
    set_precision(network, "float32")
    assert {layer.operands for layer in layers} == {None}


@pytest.mark.parametrize("vendor, capabilities, precision", [
    ("AuthenticAMD", {"avx512_f": True, "avx512_bf16": True}, "bfloat16"),
    ("GenuineIntel", {"avx512_f": True, "avx512_bf16": True}, "float32"),       # some machines hide AMX
    ("GenuineIntel", {"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
    ("AuthenticAMD", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
    ("", {"neon": True}, "float32"),
])
@pytest.mark.parametrize("system", ["Linux", "another"])
def test_the_processor_decides(system, vendor, capabilities, precision, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    info = tmp_path / "cpuinfo"
    if system == "Linux":
        info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr("scene.learn.precision.CPUINFO", info)
    monkeypatch.setattr("platform.processor", lambda: f"Family 6, {vendor}" * (system == "another"))
    assert fastest("cpu") == precision


@pytest.mark.parametrize("supported", [True, False])
def test_the_gpu_decides(supported, monkeypatch):
    gpu = SimpleNamespace(is_bf16_supported=lambda including_emulation: supported)
    monkeypatch.setattr("torch.cuda", gpu)
    assert fastest("cuda") == ("bfloat16" if supported else "float32")


@pytest.mark.parametrize("mode", MODES)
def test_the_same_bytes_on_any_number_of_cores_and_others_than_in_float32(mode, monkeypatch):
    pixels, labels = photos()
    results = []
    for precision, count in ("bfloat16", 1), ("bfloat16", 2), ("float32", 1):
        monkeypatch.setattr("scene.processes.cores", lambda count=count: count)
        network = MODES[mode].network(3, 32)
        train(network, pixels.repeat(1, 2, 2, 1), labels, make_settings(
            epochs=2, learning_rate=0.02, batch_size=20, shard=10, precision=precision))
        results.append(network.params.numpy().tobytes())
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("make", [lambda: FCNN(5, dropout=0), lambda: CNN(5, 48)], ids=["FCNN", "CNN"])
def test_losses_are_as_close_to_float32_as_those_of_autocast(make):
    """Twenty steps of ours, of the twin under torch.autocast, and of ours in float32."""
    size = make().image_size
    pixels, labels = photos(32, size, 5)

    def ours(precision):
        network = make().start(torch.Generator().manual_seed(1))
        set_precision(network, precision)
        loss, optimizer = CrossEntropy(0.1), SGD(network)
        for _ in range(20):
            yield float(loss.forward(network.forward(pixels, training=True), labels))
            network.backward(loss.backward())
            optimizer.step(0.01)

    def autocast():
        module = twin(make().start(torch.Generator().manual_seed(1))).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        for _ in range(20):
            with torch.autocast("cpu", torch.bfloat16):
                value = F.cross_entropy(module(pixels), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            yield value.item()

    exact = torch.tensor(list(ours("float32")))
    mine = (torch.tensor(list(ours("bfloat16"))) - exact).abs()
    other = (torch.tensor(list(autocast())) - exact).abs()
    assert 0 < mine.max() < 0.03 and other.max() < 0.03, (mine.max(), other.max())
    assert mine.mean() < 4 * other.mean() + 1e-3, (mine.mean(), other.mean())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with photos and the checkpoint of a run in bfloat16 that was stopped by a signal."""
    folder = tmp_path_factory.mktemp("stopped")
    for name in "train", "test":
        make_photos(folder / name)
    process = start_job("train", "test", "FCNN", "--epochs", 100000, "--precision", "bfloat16", cwd=folder)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return folder


def test_a_run_is_not_resumed_in_another_precision(stopped):
    command = ["train", "test", "FCNN", "--epochs", 100000, "--resume", "--precision", "float32"]
    result = main_job(*command, cwd=stopped)
    assert result.returncode == 2
    assert "belongs to another run: precision was bfloat16 and is float32." in result.stderr


def test_by_default_the_fastest_precision_is_chosen_and_shown(stopped, tmp_path):
    result = main_job("train", "test", "FCNN", "--epochs", 1, "--output", tmp_path, cwd=stopped)
    assert f"precision {fastest('cpu')}" in result.stdout
