"""Training on a GPU, without one: steps recorded by a stand-in for CUDA graphs, and steps on `meta` tensors.

On a real GPU: python -m tests.bench.gpu.
"""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from scene.learn import augment, graph
from scene.learn.graph import WARM_UPS, Recorded, recorded
from scene.learn.loop import make_learner, train
from scene.learn.optim import SGD, Muon
from scene.learn.precision import PRECISIONS, set_precision
from scene.learn.recipe import make_plan
from scene.learn.shallow import inside_bodies
from scene.learn.team import Solo
from scene.models import MODES
from tests.jobs import make_settings, photos

every_mode = pytest.mark.parametrize("mode", MODES)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


# The stand-in


class StandIn(TorchDispatchMode):
    """Stands in for torch.cuda.CUDAGraph, on CPU tensors. It records torch's operations, not CUDA's kernels.

    Like a real one, it is blind to Python: it repeats the same operations with the same numbers on the same
    memory. While it records, nothing is written to memory that was there before, no generator advances, and
    reading a number, copying from Python, or an unregistered generator is a RuntimeError. It cannot show that
    CUDA accepts the operations, nor anything about streams and speed.
    """

    made = []
    FORBIDDEN = "_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "_unique2"

    def __init__(self):
        super().__init__()
        self.operations = []
        self.generators = []
        self.replays = 0
        StandIn.made.append(self)

    def register_generator_state(self, generator):
        self.generators.append(generator._cdata)        # operations see another Python object

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        name = function.overloadpacket.__name__
        generator = named.get("generator")
        unknown = generator is not None and generator._cdata not in self.generators
        if name in self.FORBIDDEN or unknown:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {name}\nmore")
        if function._schema.is_mutable:
            results = written(function, arguments, named)       # it will be written at a replay
        else:
            before = generator.get_state() if generator else None
            results = function(*arguments, **named)             # makes new memory, or a view
            if generator:
                generator.set_state(before)
        self.operations.append((function, arguments, named, results))
        return results

    def replay(self):
        self.replays += 1
        for function, arguments, named, results in self.operations:
            new = function(*arguments, **named)
            if not function._schema.is_mutable and not same_memory(results, new):
                results.copy_(new)


def written(function, arguments, named):
    """The argument that an operation writes to."""
    for i, declared in enumerate(function._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            return named[declared.name] if declared.name in named else arguments[i]
    raise AssertionError(function)


def same_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


class Streams:
    """Stands in for CUDA's streams: knows which one is current, and that each waited for the other."""

    def __init__(self):
        self.current = Stream()

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, pool, stream):
        """Like torch.cuda.graph, it leaves its stream current if recording fails."""
        before, self.current = self.current, stream
        with graph:
            yield
        self.current = before


class Stream:
    def __init__(self):
        self.waits = []

    def wait_stream(self, other):
        self.waits.append(other)


@pytest.fixture
def gpu(monkeypatch):
    """The stand-ins in the place of torch.cuda's own, and in training's loop a Solo in that of a Team."""
    streams = Streams()
    monkeypatch.setattr(StandIn, "made", [])
    for name, stand_in in {
        "CUDAGraph": StandIn, "graph": streams.graph, "Stream": Stream, "stream": streams.stream,
        "current_stream": lambda: streams.current, "graph_pool_handle": object,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", stand_in)
    monkeypatch.setattr("scene.learn.loop.recorded", Recorded)
    monkeypatch.setattr("scene.learn.loop.make_team", lambda network, learn, shards: Solo(network, learn))
    return streams


# A recorded function


def test_on_a_cpu_nothing_is_recorded():
    assert recorded(len, "cpu") is len


def test_it_is_called_a_few_times_then_recorded_then_replayed(gpu):
    calls = []

    def double(x):
        calls.append(x)
        return x * 2

    function = Recorded(double, "cpu")
    for i in range(10):
        assert function(torch.tensor([i, 1.])).tolist() == [2 * i, 2]
    assert len(calls) == WARM_UPS + 1 and StandIn.made[0].replays == 10 - WARM_UPS


@pytest.mark.parametrize("other", [
    (torch.zeros(3), 2.0, 5), (torch.zeros(2, 1), 2.0, 5), (torch.zeros(2).double(), 2.0, 5),
    (torch.zeros(2), 2.0, 6)], ids=["length", "shape", "dtype", "number"])
def test_another_shape_or_argument_makes_another_recording(gpu, other):
    function = Recorded(lambda x, factor, shift: x * factor + shift, "cpu")
    for _ in range(2):
        for x, factor, shift in (torch.ones(2), 3.0, 5), (torch.ones(2), 4.0, 5), other:
            for _ in range(WARM_UPS + 1):
                assert torch.equal(function(x, factor, shift), x * factor + shift)
    assert len(StandIn.made) == 2, "one for other, and one for both factors: floats are inputs"


def test_inputs_of_the_caller_stay_as_they_are(gpu):
    function = Recorded(lambda x: x + 1, "cpu")
    inputs = [torch.full((2,), float(i)) for i in range(8)]
    for x in inputs:
        function(x)
    assert [x.tolist() for x in inputs] == [[i, i] for i in range(8)]


def test_recording_runs_nothing(gpu):
    total = torch.zeros(2)
    function = Recorded(lambda x: total.add_(x), "cpu")
    for i in range(1, 10):
        function(torch.ones(2))
        assert total.tolist() == [i, i]


def test_a_generator_goes_on_drawing_and_starts_again_from_a_seed(gpu):
    generator = torch.Generator()
    function = Recorded(lambda n, g: torch.rand(n, generator=g), "cpu")

    def draw(seed, times):
        generator.manual_seed(seed)
        return [function(3, generator).tolist() for _ in range(times)]

    first = draw(1, 10)                     # warm-ups and replays
    assert first == draw(1, 10) != draw(2, 10), "now they are all replays"
    assert len(set(map(tuple, first))) == 10
    assert StandIn.made[0].replays == 30 - WARM_UPS


def test_if_recording_fails_training_says_so_and_goes_on(gpu, capsys):
    total = torch.zeros(1)
    before = gpu.current

    def reads(x):
        total.add_(x)
        return total * x.sum().item()

    function = Recorded(reads, "cpu")
    for i in range(1, 10):
        assert function(torch.tensor([1.])).tolist() == [i]
    assert len(StandIn.made) == 1 and StandIn.made[0].replays == 0, "it is tried only once"
    assert capsys.readouterr().out == (
        "Recording a CUDA graph failed, so training continues more slowly: CUDA error: operation not "
        "permitted when stream is capturing: _local_scalar_dense\n")
    assert gpu.current is before


def test_a_mistake_in_the_function_is_raised_not_hidden(gpu):
    def wrong(x):
        if torch.utils._python_dispatch._get_current_dispatch_mode():
            raise KeyError("mistake")
        return x

    function = Recorded(wrong, "cpu")
    for _ in range(WARM_UPS):
        function(torch.ones(1))
    with pytest.raises(KeyError, match="mistake"):
        function(torch.ones(1))


def test_streams_wait_for_each_other(gpu):
    function = Recorded(lambda x: x, "cpu")
    for i in range(1, WARM_UPS + 2):        # warm-ups and the recording
        function(torch.ones(1))
        assert function.stream.waits == [gpu.current] * i and gpu.current.waits == [function.stream] * i


# A whole training


def trained(mode, precision="float32", epochs=9, **changes):
    """The bytes of a network trained on batches of 11 and 12 photos, three in an epoch."""
    pixels, labels = photos(35)
    network = MODES[mode].network(3, 16)
    settings = make_settings(epochs=epochs, learning_rate=0.02, batch_size=12, shard=12, precision=precision,
                             small_start=mode == "CNN", **changes)
    train(network, pixels, labels, settings)
    return network.params.numpy().tobytes(), network.state.numpy().tobytes()


@every_precision
@every_mode
def test_a_recorded_training_gives_the_bytes_of_one_that_is_not(mode, precision, gpu, monkeypatch):
    result = trained(mode, precision, epochs=30)
    replays = sum(each.replays for each in StandIn.made)
    # Both sizes of batches in each of the CNN's stages, except for the last. Bodies rest in the first.
    assert len(StandIn.made) == {"FCNN": 2 + 1, "CNN": 7 + 2}[mode]
    assert replays == 2 * 90 - WARM_UPS * len(StandIn.made) - {"FCNN": 0, "CNN": 3}[mode]
    monkeypatch.setattr(graph, "WARM_UPS", 1000)
    assert trained(mode, precision, epochs=30) == result
    assert sum(each.replays for each in StandIn.made) == replays


def test_recordings_depend_on_stage_and_size_of_the_batch_and_nothing_else(gpu):
    trained("FCNN")
    assert len(StandIn.made) == 2 + 1, "batches of 11 and 12, and the optimizer's step"
    trained("FCNN", decay=1e-3, grey=0.3)
    assert len(StandIn.made) == 2 * 3
    assert StandIn.made[0].replays > 0


def stale(function, key, arguments):
    """Recorded.replay without its copies."""
    graph, _, results = function.recordings[key]
    graph.replay()
    return results


def unseeded(team, step, batch, seeds):
    """Solo.step without its seed."""
    team.network.grads.zero_()
    return [value.item() for value in team.learn(step, batch, team.generator)]


def frozen(params, direction, rate):
    """descend with the rate of the warm-up."""
    params.sub_(direction, alpha=0.01)


@pytest.mark.parametrize("place, wrong", [
    ("scene.learn.graph.Recorded.replay", stale),
    ("scene.learn.team.Solo.step", unseeded),
    ("scene.learn.optim.descend", frozen),
])
def test_bugs_like_these_would_be_noticed(place, wrong, gpu, monkeypatch):
    right = trained("FCNN")
    monkeypatch.setattr(place, wrong)
    assert trained("FCNN") != right


def test_a_host_copy_in_the_step_is_noticed(gpu, monkeypatch, capsys):
    monkeypatch.setattr(augment, "luma_weights", augment.luma_weights.__wrapped__)
    trained("FCNN")
    assert "lift_fresh" in capsys.readouterr().out


def test_a_gpu_takes_a_batch_as_one_shard():
    settings = make_settings(epochs=1, learning_rate=0.1, batch_size=128, shard=32)
    assert make_plan(1000, settings).shards == 4
    assert make_plan(1000, replace(settings, device="cuda")) == make_plan(1000, settings)._replace(shards=1)


# The learning rate


@pytest.mark.parametrize("kind", [SGD, Muon])
def test_a_rate_may_be_a_tensor_and_a_number_gives_the_same_bytes_as_ever(kind):
    """Ever: params.sub_(direction, alpha=rate)."""
    def step(take):
        network = MODES["FCNN"].network(3, 8).start(torch.Generator().manual_seed(0))
        network.grads.normal_(generator=torch.Generator().manual_seed(1))
        take(kind(network))
        return network.params

    def by_hand(optimizer):
        params = optimizer.network.params
        params.sub_(optimizer.direction(), alpha=0.03)
        for slot in getattr(optimizer, "hidden", ()):
            w = params[slot.start:slot.start + slot.declared.shape[0] * slot.declared.shape[1]]
            w.mul_((2 * slot.declared.shape[0]) ** 0.5 / w.reshape(slot.declared.shape).norm())

    number = step(lambda optimizer: optimizer.step(0.03))
    assert torch.equal(number, step(by_hand))
    torch.testing.assert_close(step(lambda optimizer: optimizer.step(torch.tensor(0.03))), number)


# On meta tensors, which have a shape and no numbers


class MetaGenerator(torch.Generator):
    """torch has no generator for meta. This one, of the CPU, says that it is."""

    device = torch.device("meta")


class OnlyOnTheDevice(TorchDispatchMode):
    """Fails at an operation that reads or makes a tensor elsewhere than on meta."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **named or {})
        for each in torch.utils._pytree.tree_leaves((arguments, named, result)):
            if isinstance(each, torch.Tensor):
                assert each.is_meta, f"{function} has a {each.device} tensor"
        return result


class NothingFromPython(TorchFunctionMode):
    """Fails where Python's numbers become a tensor."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        assert function not in (torch.tensor, torch.asarray, torch.as_tensor, torch.from_numpy), function
        return function(*arguments, **named or {})


def step_on_meta(mode, precision, count, share):
    """Two steps of a network on meta tensors at this share of the training: the second with full caches."""
    network = MODES[mode].network(10).start(torch.Generator(), "meta")
    set_precision(network, precision)
    settings = make_settings(epochs=10, learning_rate=0.1, precision=precision, small_start=mode == "CNN")
    generator = MetaGenerator()
    for _, layer in network.walk():
        layer.generator = generator
    side = network.image_size
    pixels = torch.empty(200, side, side, 3, dtype=torch.uint8, device="meta")
    labels = torch.empty(200, dtype=torch.int64, device="meta")
    plan = make_plan(200, settings)
    learn = make_learner(network, pixels, labels, settings, plan)
    optimizer = Muon(network, 0.9, 5e-4, 4.0)
    indices = torch.empty(count, dtype=torch.int64, device="meta")
    rate = torch.full((), 0.1, device="meta")
    step = int(share * plan.steps)
    for check in nullcontext(), NothingFromPython():
        with check, OnlyOnTheDevice():
            loss, right = learn(step, indices, generator)
            optimizer.step(rate, inside_bodies(network) if step < plan.opening else ())
    assert loss.shape == right.shape == () and (loss.dtype, right.dtype) == (torch.float32, torch.int64)
    assert {network.params.dtype, network.state.dtype, network.grads.dtype} == {torch.float32}


@pytest.mark.parametrize("count", [64, 129])
@pytest.mark.parametrize("share", [0, 0.5, 0.8, 0.95])
@every_precision
@every_mode
def test_a_step_needs_no_number_from_the_gpu_nor_from_python(mode, precision, share, count):
    step_on_meta(mode, precision, count, share)


@pytest.mark.parametrize("wrong, message", [
    (lambda device: torch.tensor(augment.LUMA, device=device), "built-in method tensor"),
    (lambda device: torch.zeros(3), "has a cpu tensor"),
    (lambda device: torch.zeros(3, device=device) * torch.zeros((), device=device).item(), "meta tensors"),
])
def test_such_a_number_would_be_noticed(wrong, message, monkeypatch):
    monkeypatch.setattr(augment, "luma_weights", wrong)
    with pytest.raises((AssertionError, RuntimeError), match=message):
        step_on_meta("FCNN", "float32", 64, 0)


def test_the_check_for_a_gpu_says_that_there_is_none():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-m", "tests.bench.gpu"], env=environment, capture_output=True,
                            text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("torch finds no CUDA device here: ") and result.stderr.count("\n") == 1
