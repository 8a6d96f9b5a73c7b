"""The loop, alone and as a team: the same seed, the same bytes."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene.learn.augment import augment
from scene.learn.check import NetworkError, check
from scene.learn.loop import shuffle, train
from scene.learn.optim import Muon, one_cycle
from scene.learn.progress import Diverged, Progress
from scene.learn.recalibrate import recalibrate
from scene.learn.recipe import STAGES, Settings, crop_at, defaults, make_plan, parts, stages_of
from scene.learn.team import Solo, Team
from scene.models import CNN, FCNN, MODES
from scene.nn.activation import ReLU
from scene.nn.conv import Conv2d
from scene.nn.layer import Layer, Network, Parameter, Residual, Sequential
from scene.nn.linear import Flatten, Linear
from scene.nn.loss import CrossEntropy
from scene.nn.norm import BatchNorm
from scene.nn.normalize import Normalize
from scene.nn.pool import GlobalAveragePool
from scene.processes import WorkerError, WorkerKilled, parallel_map
from scene.signals import Stopped
from tests.jobs import alive, make_settings, photos

every_mode = pytest.mark.parametrize("mode", MODES)


def trained(kind=FCNN, seed=0, epochs=2, **settings):
    pixels, labels = photos()
    network = kind(3, 16)
    train(network, pixels, labels, make_settings(epochs=epochs, learning_rate=0.02, seed=seed, **settings))
    return network


@every_mode
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores(mode, monkeypatch):
    def train_again(seed=0):
        network = trained(MODES[mode].network, seed, batch_size=20, shard=10, small_start=True)
        return network.params.numpy().tobytes(), network.state.numpy().tobytes()

    results = []
    for count in (1, 2, 2, 3):
        monkeypatch.setattr("scene.processes.cores", lambda count=count: count)
        results.append(train_again())
    assert len(set(results)) == 1
    assert train_again(seed=1)[0] != results[0][0]


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_training_learns(loss):
    pixels, labels = photos()
    network = trained(epochs=15, batch_size=16, loss=loss)
    assert (network.forward(pixels).argmax(1) == labels).float().mean() > 0.95


def test_statistics_that_do_not_move_stay_to_the_bit(monkeypatch):
    monkeypatch.setattr("scene.processes.cores", lambda: 1)
    pixels, labels = photos()
    network = FCNN(3, 16)
    train(network, pixels, labels, make_settings(epochs=3, learning_rate=0.02))
    mean = network.layers[0].mean.clone()
    std = network.layers[0].std.clone()
    network.layers[0].fit(pixels)
    assert torch.equal(mean, network.layers[0].mean) and torch.equal(std, network.layers[0].std)
    assert mean == pytest.approx(pixels.float().mean((0, 1, 2)))


def test_the_loop_does_what_the_settings_say(monkeypatch):
    """Every photo once an epoch in another order, at the schedule's rates, in crops of each stage's size."""
    monkeypatch.setattr("scene.processes.cores", lambda: 1)
    made = []
    rates = []
    rests = []
    batches = []
    views = []

    class Spy(Muon):
        def __init__(self, network, *settings):
            made.append(settings)
            super().__init__(network, *settings)

        def step(self, rate, resting):
            rates.append(rate)
            rests.append(len(resting))
            super().step(rate, resting)

    def spy(pixels, size, area, grey, generator):
        views.append((size, round(area, 9), grey))
        batches.append(pixels[:, 0, 0, 0].tolist())
        return augment(pixels, size, area, grey, generator)

    monkeypatch.setattr("scene.learn.loop.Muon", Spy)
    monkeypatch.setattr("scene.learn.loop.augment", spy)
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].repeat(1, 40, 40, 3)
    settings = make_settings(epochs=10, learning_rate=0.2, batch_size=5, momentum=0.8, decay=0.01,
                             norm_rate=3.0, crop_area=0.7, grey=0.2, small_start=True)
    train(CNN(2, 40), pixels, torch.arange(10) % 2, settings)
    assert made == [(0.8, 0.01, 3.0)]
    assert rates == [0.2 * one_cycle(step / 20) for step in range(20)]
    assert rests == [10] * 8 + [0] * 12, "the layers inside two bodies"
    assert views == [(16, 0.7, 0.2)] * 8 + [(24, 0.79, 0.2)] * 7 + [(32, 0.88, 0.2)] * 4 + [(40, 1, 0.2)]
    epochs = [batches[2 * i] + batches[2 * i + 1] for i in range(10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 10


def test_progress_counts_photos_not_batches(capsys):
    with Progress(2, 4) as progress:
        progress.start_epoch(1)
        progress.add(1, 4.0, 1)
        progress.add(3, 2.0, 1)
        progress.end_epoch()
    assert capsys.readouterr().out == "epoch 1/2: loss 1.500, training accuracy 50.0%\n"


@given(st.integers(2, 1000), st.integers(1, 100))
def test_parts_are_alike_and_hold_at_least_two(photos, size):
    lengths = [len(part) for part in torch.arange(photos).tensor_split(parts(photos, size))]
    assert sum(lengths) == photos and min(lengths) >= 2 and max(lengths) - min(lengths) <= 1
    assert size < 2 or max(lengths) <= 2 * size


@pytest.mark.parametrize("photos, size, expected", [
    (5, 1, 2), (6, 1, 3), (7, 2, 3), (100, 30, 3), (100, 28, 4), (2, 64, 1), (1, 64, 1)])
def test_parts_are_about_as_large_as_asked_for(photos, size, expected):
    assert parts(photos, size) == expected


def test_two_photos_are_enough():
    network = FCNN(2, 8)
    settings = make_settings(epochs=1, learning_rate=0.01)
    train(network, torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor([0, 1]), settings)
    assert network.params.isfinite().all()


def test_divergence_is_noticed():
    pixels, labels = photos()
    message = r"^Training diverged in epoch \d+: the loss .*\. Try a smaller --learning-rate\.$"
    with pytest.raises(Diverged, match=message):
        train(FCNN(3, 16), pixels, labels, make_settings(epochs=20, learning_rate=1e30))


def test_without_a_terminal_an_epoch_is_a_line(capsys):
    trained(epochs=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "loss" in lines[0] and "training accuracy" in lines[0]


def test_the_line_of_an_epoch_is_seen_when_the_epoch_ends(monkeypatch):
    """Also where the output is a pipe or a file, which Python does not flush by itself."""
    pipe = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, write_through=False))
    with Progress(2, 8) as progress:
        for epoch in 1, 2:
            progress.start_epoch(epoch)
            progress.add(8, 4.0, 6)
            progress.end_epoch()
            assert pipe.getvalue().decode().splitlines()[-1].startswith(f"epoch {epoch}/2: loss 0.5")


def test_nothing_is_forked_on_a_mac(monkeypatch):
    """Where a forked process may not use the BLAS library: training and photos take one process."""
    both = []
    for platform in "darwin", "linux":
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.setattr("scene.processes.cores", lambda: 2)
        if platform == "darwin":
            monkeypatch.setattr("os.fork", lambda: pytest.fail("forked"))
        both.append(trained(epochs=1))
        assert list(parallel_map(lambda i: i * i, range(20))) == [i * i for i in range(20)]
        monkeypatch.undo()
    assert torch.equal(both[0].params, both[1].params)


def team(processes, monkeypatch, learn=None):
    """A team on a network without BatchNorm, whose gradient for a batch is the mean of its photos'."""
    monkeypatch.setattr("scene.processes.cores", lambda: processes)
    pixels, labels = photos(23)
    network = Network(Flatten(), Linear(16 * 16 * 3, 3)).start(torch.Generator().manual_seed(0))
    loss = CrossEntropy()

    def by_hand(step, batch, generator):
        z = network.forward(pixels[batch].float() / 255, training=True)
        value = loss.forward(z, labels[batch])
        network.backward(loss.backward())
        return value * len(batch), (z.argmax(1) == labels[batch]).sum()

    return network, Team(network, learn or by_hand, shards=4), by_hand


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_the_gradient_of_a_batch_is_that_of_its_shards_together(processes, monkeypatch):
    network, workers, by_hand = team(processes, monkeypatch)
    batch = torch.arange(23)
    sums = [float(value) for value in by_hand(0, batch, None)]
    whole = network.grads.clone()
    with workers:
        for _ in range(2):
            assert workers.step(0, batch, torch.arange(4)) == pytest.approx(sums)
            torch.testing.assert_close(network.grads, whole)


def test_statistics_are_the_mean_of_the_shards(monkeypatch):
    monkeypatch.setattr("scene.processes.cores", lambda: 2)
    network = Network(Linear(1, 1)).start(torch.Generator().manual_seed(0))
    network.state_size = 3
    network.state = torch.zeros(3)

    def learn(step, batch, generator):
        network.state += batch.float().mean()
        return 0, 0

    workers = Team(network, learn, shards=3)
    with workers:
        workers.step(0, torch.tensor([1, 2, 3, 4, 5, 6, 9]), torch.arange(3))
    torch.testing.assert_close(workers.state, torch.full((3,), 30 / 7))


def test_a_worker_that_fails_is_reported_and_none_remains(monkeypatch):
    parent = os.getpid()

    def learn(step, batch, generator):
        if os.getpid() != parent:
            raise MemoryError("too much")
        return 0, 0

    _, workers, _ = team(3, monkeypatch, learn)
    with pytest.raises(WorkerError, match=r"a worker process failed: MemoryError\('too much'\)"), workers:
        workers.step(0, torch.arange(23), torch.arange(4))
    assert not any(worker.is_alive() for worker in workers.workers)


def test_a_worker_that_is_killed_is_reported(monkeypatch):
    _, workers, _ = team(2, monkeypatch, lambda *arguments: (0, 0))
    with pytest.raises(WorkerKilled, match="^A worker process was killed, perhaps for "), workers:
        workers.step(0, torch.arange(23), torch.arange(4))
        workers.workers[0].kill()
        workers.workers[0].join()
        workers.step(0, torch.arange(23), torch.arange(4))


def test_an_error_in_the_middle_of_a_step_waits_for_nobody(monkeypatch):
    parent = os.getpid()

    def learn(*arguments):
        if os.getpid() == parent:
            raise ValueError("stop")
        time.sleep(60)
        return 0, 0

    _, workers, _ = team(2, monkeypatch, learn)
    start = time.monotonic()
    with pytest.raises(ValueError, match="stop"), workers:
        workers.step(0, torch.arange(23), torch.arange(4))
    assert time.monotonic() - start < 30 and not any(worker.is_alive() for worker in workers.workers)


KILLED = """
import time, torch
import scene.learn.team, scene.processes
from scene.nn.layer import Network
from scene.nn.linear import Linear
scene.processes.cores = lambda: 3
network = Network(Linear(1, 1)).start(torch.Generator())
with scene.learn.team.Team(network, lambda *arguments: (0, 0), 3) as team:
    team.step(0, torch.arange(6), torch.arange(3))
    print(*(worker.pid for worker in team.workers), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_and_no_memory_remains_of_a_killed_parent(number):
    shared_before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    workers = list(map(int, process.stdout.readline().split()))
    assert len(workers) == 2
    process.send_signal(number)
    process.wait(10)
    process.stdout.close()
    deadline = time.monotonic() + 5
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert set(os.listdir("/dev/shm")) <= shared_before


def test_few_photos_are_seen_more_often_in_larger_steps():
    def some(photos, trained=False, mode=MODES["CNN"]):
        settings = defaults(mode, photos, trained)
        return [settings[name] for name in ("epochs", "learning_rate", "crop_growth", "small_start")]

    assert some(9000) == [36, 0.08, 1, True]
    assert some(9000 / 8) == [61, 0.135, 0.32, True]
    assert some(60)[1:3] == [0.15, 0]
    assert some(9000, trained=True) == some(18000, trained=True) == [20, 0.048, 1, False]
    assert some(9000 / 9, trained=True) == [20, 0.016, 1, False], "gentler with fewer photos"
    assert some(60, mode=MODES["FCNN"]) == some(9000, mode=MODES["FCNN"]) == [80, 0.1, 0, False]
    assert some(9000, mode=MODES["CNN"]._replace(learning_rate=0.3))[1] == 0.3, "the limit is for few photos"


def test_crops_grow_in_stages():
    """The side of the crops, and the least share of a photo in one, as the CNN's training goes on."""
    network = CNN(3)

    def crops(*times, side=80, **changes):
        network.image_size = side
        settings = Settings(**defaults(MODES["CNN"], 9000) | {"crop_growth": 0.5} | changes)
        return [(size, round(area, 3)) for size, area in (crop_at(t, network, settings) for t in times)]

    assert crops(0, 0.399, 0.4, 0.749, 0.75, 0.919, 0.92, 0.999) == [
        (32, 0.5), (32, 0.5), (48, 0.575), (48, 0.575), (64, 0.65), (64, 0.65), (80, 0.75), (80, 0.75)]
    assert crops(0, 0.499, 0.5, 0.999, small_start=False) == [
        (64, 0.625), (64, 0.625), (80, 0.75), (80, 0.75)]
    assert crops(0, 0.4, 0.75, side=45) == [(16, 0.5), (24, 0.575), (36, 0.65)], "multiples of 4"
    assert crops(0, 0.4, 0.75, 0.92, side=16) == [(8, 0.5), (8, 0.575), (12, 0.65), (16, 0.75)], "at least 8"
    fixed = FCNN(3, 20), Settings(**defaults(MODES["FCNN"], 9000))
    assert crop_at(0, *fixed) == crop_at(0.99, *fixed) == (20, 0.75), "it takes photos of one size"


def test_the_stages_of_a_training_and_their_shares():
    settings = Settings(**defaults(MODES["CNN"], 9000))
    middles, shares = zip(*stages_of(CNN(3), settings), strict=True)
    assert middles == pytest.approx((0.2, 0.575, 0.835, 0.96))
    assert shares == pytest.approx((0.4, 0.35, 0.17, 0.08))
    assert stages_of(CNN(3), replace(settings, small_start=False)) == [(0.25, 0.5), (0.75, 0.5)]
    assert stages_of(FCNN(3), settings) == [(0.5, 1)]


def test_the_plan_of_a_training():
    settings = Settings(**defaults(MODES["CNN"], 9000))
    assert make_plan(9000, settings) == (70, 2, 36 * 70, 1008), "of 128.6 photos in 2 parts of 64"
    assert make_plan(9000, replace(settings, small_start=False)).opening == 0
    assert make_plan(9000, replace(settings, batch_size=9000)).shards == 16, "at most"
    assert make_plan(3, settings) == (1, 1, 36, 15), "15 is 14.4 rounded up"


@every_mode
def test_the_defaults_of_every_mode_are_its_numbers(mode):
    settings = Settings(**defaults(MODES[mode], 9000))
    for name in Settings.__dataclass_fields__.keys() & set(MODES[mode]._fields):
        assert getattr(settings, name) == getattr(MODES[mode], name), name
    assert settings.small_start == (mode == "CNN")
    assert (settings.loss, settings.balanced, settings.seed, settings.device, settings.precision,
            settings.momentum, settings.decay) == ("cross-entropy", False, 0, "cpu", "float32", 0.9, 5e-4)


def test_a_small_start_trains_residual_bodies_later(monkeypatch):
    """They rest in the first stage of the training and move in the others. Other layers move at once."""
    pixels, labels = photos(n=24)
    network = CNN(3, 16)
    seen = []
    step = Solo.step

    def watch(team, *arguments):
        seen.append({name: array.clone() for name, array in network.arrays().items() if name.endswith("w")})
        return step(team, *arguments)

    monkeypatch.setattr(Solo, "step", watch)
    settings = make_settings(epochs=1, learning_rate=0.1, batch_size=3, shard=3, small_start=True)
    train(network, pixels, labels, settings)
    body = {name for name in seen[0] if name.endswith(("body.0.w", "body.3.w"))}
    moved = [{name for name in body if not torch.allclose(seen[i][name], seen[i + 1][name])}
             for i in range(1, 7)]
    opened = [i / 8 >= STAGES[0].until for i in range(1, 7)]
    assert moved == [body if late else set() for late in opened] and set(opened) == {False, True}
    assert not torch.equal(seen[1]["1.w"], seen[2]["1.w"])


def test_a_start_from_a_teacher_has_its_answers_at_step_0(monkeypatch):
    """Without a small start, no residual body is silenced: that would throw away what the teacher knows."""
    pixels, labels = photos(n=24)
    settings = make_settings(epochs=1, learning_rate=0.1, batch_size=8, small_start=True)
    teacher = CNN(3, 16)
    train(teacher, pixels, labels, settings)
    seen = []
    step = Solo.step

    def watch(team, *arguments):
        seen.append(Sequential(*team.network.layers[:-1]).forward(pixels).clone())
        return step(team, *arguments)

    monkeypatch.setattr(Solo, "step", watch)
    network = CNN(3, 16)
    train(network, pixels, labels, replace(settings, small_start=False), teacher)
    knows = Sequential(*teacher.layers[:-1]).forward(pixels)
    torch.testing.assert_close(seen[0], knows)
    assert abs(seen[1] - knows).max() > 1e-3                        # which training then changes
    gains = [abs(array).mean() for name, array in network.arrays().items() if name.endswith("body.4.w")]
    assert gains and min(gains) > 0.1


def test_a_body_that_is_not_trained_yet_adds_nothing_to_what_is_predicted():
    """As in the model of a training that diverged early, or that had a single step."""
    pixels, labels = photos(n=4)
    network = CNN(3, 16)
    train(network, pixels, labels, make_settings(epochs=1, learning_rate=0.1, batch_size=4, small_start=True))
    before, residual = Sequential(*network.layers[:8]), network.layers[8]
    x = before.forward(pixels)
    assert torch.equal(residual.forward(x), x)
    train(network, pixels, labels, make_settings(epochs=4, learning_rate=0.1, batch_size=4, small_start=True))
    x = before.forward(pixels)
    assert not torch.equal(residual.forward(x), x)


def test_a_trained_cnn_knows_the_statistics_of_whole_photos():
    pixels, labels = photos(n=24)
    network = CNN(3, 16)
    train(network, pixels, labels, make_settings(epochs=1, learning_rate=0.1, batch_size=8, shard=8))
    *before, norm = network.layers[:4]
    rows = Sequential(*before).forward(pixels).reshape(-1, 32)
    torch.testing.assert_close(norm.mean, rows.mean(0))
    assert norm.momentum == 0.1
    state = network.state.clone()
    recalibrate(network, pixels)
    torch.testing.assert_close(network.state, state)        # it depends on photos and weights alone


def test_a_trained_cnn_is_the_same_to_the_bit_on_any_number_of_cores(monkeypatch):
    """Its norms too, which several processes measure. The mean and spread of the colours stay as they are."""
    pixels, labels = photos(n=100)
    states = []
    for number in (1, 2, 3, 2):
        monkeypatch.setattr("scene.processes.cores", lambda number=number: number)
        network = CNN(3, 16)
        train(network, pixels, labels, make_settings(epochs=1, learning_rate=0.1, batch_size=8, shard=4))
        states.append(network.state)
    assert all(torch.equal(state, states[0]) for state in states)
    fresh = CNN(3, 16).start(torch.Generator()).layers[0]
    fresh.fit(pixels)
    assert torch.equal(network.layers[0].std, fresh.std) and torch.equal(network.layers[0].mean, fresh.mean)


def test_many_photos_are_not_all_needed_for_the_statistics(monkeypatch):
    monkeypatch.setattr("scene.processes.cores", lambda: 1)
    network = CNN(3, 8).start(torch.Generator().manual_seed(0))
    seen = []
    network.layers[0].forward = lambda x, training=False: seen.append(x) or x.float()
    pixels = torch.arange(10).to(torch.uint8)[:, None, None, None].expand(10, 8, 8, 3)
    recalibrate(network, pixels, size=2, most=3)
    assert [x[:, 0, 0, 0].tolist() for x in seen] == [[0, 5], [1, 6], [2, 7]]


def test_many_batches_have_the_statistics_of_all_their_photos_together():
    """Also of the differences between batches: with classes of different brightness, their means differ."""
    pixels, labels = photos(n=60)
    pixels = pixels[labels.argsort()]
    network = CNN(3, 16).start(torch.Generator().manual_seed(0))
    network.layers[0].fit(pixels)
    recalibrate(network, pixels, size=20)
    *before, norm = network.layers[:4]
    rows = Sequential(*before).forward(pixels).reshape(-1, 32)
    torch.testing.assert_close(norm.mean, rows.mean(0))
    torch.testing.assert_close(norm.var, rows.var(0, correction=0))


def test_recalibration_remembers_nothing_of_the_photos():
    """It evaluates, so no layer keeps arrays for `backward`, and a training's memory does not peak here."""
    network = CNN(3, 16).start(torch.Generator().manual_seed(0))
    before = [set(vars(layer)) for _, layer in network.walk()]
    recalibrate(network, photos(n=40)[0])
    assert [set(vars(layer)) for _, layer in network.walk()] == before


def test_a_signal_after_the_last_step_ends_the_training_too(monkeypatch):
    """If it were lost, the exit code would be 0, as if it had not arrived."""
    pixels, labels = photos(n=20)
    end_epoch = Progress.end_epoch

    def end_with_signal(progress, held_out):
        os.kill(os.getpid(), signal.SIGTERM)
        end_epoch(progress, held_out)

    monkeypatch.setattr(Progress, "end_epoch", end_with_signal)
    with pytest.raises(Stopped) as stopped:
        train(FCNN(3, 16), pixels, labels, make_settings(epochs=1, learning_rate=0.01))
    assert stopped.value.exit_code == 143


# Networks that the loop can train, and others


class Scale(Layer):
    """y = w x. Its w: (C,) has weight decay, although it is no matrix."""

    def __init__(self, channels):
        self.parameters = {"w": Parameter((channels,), mean=1.0, decay=True)}


def residual(*ending):
    """A residual layer whose body is a convolution and these layers."""
    return Residual(Sequential(Conv2d(4, 4, 1), *ending))


def small_cnn(*layers):
    """A network of convolutions with these layers in the middle."""
    network = Network(Normalize(), Conv2d(3, 4, 3), *layers, GlobalAveragePool(), Linear(4, 3))
    network.image_size = 16
    return network


UNTRAINABLE = [
    (Network(Flatten(), Linear(768, 3)),
     "Network begins with Flatten: begin with Normalize, which training fits to the photos' "
     "colours."),
    (Network(Normalize(), Flatten(), Linear(768, 3), BatchNorm(3)),
     "Network ends in BatchNorm: end in Linear, whose outputs are the scores of the classes."),
    (small_cnn(residual()),
     "The body of Network's residual layer 2 ends in Conv2d: end it in BatchNorm, whose scale switches "
     "the body off until it is trained."),
    (small_cnn(residual(BatchNorm(4), ReLU())),
     "The body of Network's residual layer 2 ends in ReLU: end it in BatchNorm, whose scale switches "
     "the body off until it is trained."),
    (small_cnn(Scale(4)),
     "Network's parameter 2.w has the shape (4,) and weight decay, but Muon decays only matrices: declare it "
     "with decay=False."),
    (small_cnn(Conv2d(4, 4, 7)),            # the smallest crops of a training on 16x16 pixels are 8x8
     "Network cannot take photos of 8x8 pixels: Conv2d with a kernel of 7 and padding 0 cannot work on an "
     "image of 6x6. Change its layers, or choose another --image-size."),
]


UNTRAINABLE += [
    (Network(), "Network has fewer than two layers: begin with Normalize and end in Linear."),
    (small_cnn(residual(Residual(Sequential(Conv2d(4, 4, 1), BatchNorm(4))))),
     "The body of Network's residual layer 2 ends in Residual: end it in BatchNorm, whose scale switches the "
     "body off until it is trained."),
    (small_cnn(Residual(Sequential())),
     "The body of Network's residual layer 2 ends in Sequential: end it in BatchNorm, whose scale switches "
     "the body off until it is trained."),
]


@pytest.mark.parametrize("network, message", UNTRAINABLE)
def test_a_network_that_cannot_be_trained_is_refused_in_words(network, message):
    settings = make_settings(epochs=1, learning_rate=0.1, small_start=True)
    message = f"^{re.escape(message)}$"
    with pytest.raises(NetworkError, match=message):
        check(network, settings)
    pixels, labels = photos()
    with pytest.raises(NetworkError, match=message):
        train(network, pixels, labels, settings)


def test_every_stage_of_the_training_is_tried_beforehand():
    """The crops of its second stage, 56 pixels for 96, do not fit a layer that 36 and 96 fit."""
    class Picky(Flatten):
        def forward(self, x, training=False):
            if x.shape[1] == 54:
                raise ValueError("not 54")
            return x

    network = small_cnn(Picky())
    network.image_size = 96
    with pytest.raises(NetworkError, match="^Network cannot take photos of 56x56 pixels: not 54. "):
        check(network, make_settings(epochs=1, learning_rate=0.1, small_start=True))


def test_a_network_for_another_number_of_classes_is_refused():
    network = small_cnn()
    settings = make_settings(epochs=1, learning_rate=0.1)
    check(network, settings, 3)
    with pytest.raises(NetworkError, match="^Network ends in Linear with 3 outputs: give it one "):
        check(network, settings, 7)


@pytest.mark.parametrize("layers", [(), (ReLU(),), (residual(BatchNorm(4)),), (residual(), BatchNorm(4))],
                         ids=repr)
def test_a_network_without_norms_or_with_any_residual_can_be_trained(layers):
    """Version 1.4 failed after the last epoch of a network without norms, or with a body that ended in a
    convolution.
    """
    network = small_cnn(*layers)
    pixels, labels = photos(n=12)
    train(network, pixels, labels, make_settings(epochs=3, learning_rate=0.05, batch_size=6))
    assert network.forward(pixels).isfinite().all()


def test_a_small_start_takes_the_shortcut_of_a_residual_layer():
    """It trains the weights of the shortcut, but not those of the body."""
    def make():
        return small_cnn(Residual(Sequential(Conv2d(4, 4, 1), BatchNorm(4)), Conv2d(4, 4, 1)))

    network = make()
    pixels, labels = photos(n=12)
    train(network, pixels, labels,
          make_settings(epochs=1, learning_rate=0.1, batch_size=12, small_start=True))
    begun = make().start(torch.Generator().manual_seed(0)).arrays()

    def direction(array):
        return array / array.norm()                 # Muon sets the length of every weight, also at rest

    moved = {name: not torch.allclose(direction(network.arrays()[name]), direction(begun[name]))
             for name in ("2.body.0.w", "2.shortcut.w")}
    assert moved == {"2.body.0.w": False, "2.shortcut.w": True}


# Uneven classes


@pytest.mark.parametrize("counts", [[50, 5], [40, 13, 2], [1, 30], [7, 7, 7]])
def test_a_balanced_epoch_shows_each_class_equally_often_and_uses_all_photos(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    epochs = [shuffle(labels, True, generator) for _ in range(60)]
    for order in epochs:
        assert len(order) == len(labels), "so the plan of the training stays"
        shown = torch.bincount(labels[order], minlength=len(counts))
        assert shown.max() - shown.min() <= 1
        for k, count in enumerate(counts):
            times = torch.bincount(order, minlength=len(labels))[labels == k]
            assert times.max() - times.min() <= 1, "no photo of a class is shown more often than another"
            assert count <= shown[k] or times.max() == 1
    assert set(torch.cat(epochs).tolist()) == set(range(len(labels)))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_without_balance_an_epoch_is_each_photo_once():
    labels = torch.tensor([0] * 50 + [1] * 5)
    order = shuffle(labels, False, torch.Generator().manual_seed(0))
    assert order.tolist() == torch.randperm(55, generator=torch.Generator().manual_seed(0)).tolist()


def test_a_rare_class_is_found_by_a_balanced_training_and_said_to_be_rare(capsys):
    """Two classes that overlap, 10 to 1: without balance, the network answers the common one."""
    generator = torch.Generator().manual_seed(0)

    def draw(counts):
        labels = torch.repeat_interleave(torch.arange(2), torch.tensor(counts))
        noise = torch.randn((len(labels), 8, 8, 3), generator=generator) * 10
        shift = torch.randn((len(labels), 1, 1, 1), generator=generator) * 25
        return (128 + 25 * labels[:, None, None, None] + shift + noise).clip(0, 255).byte(), labels

    recalls = []
    pixels, labels = draw([300, 30])
    asked, answers = draw([200, 200])
    for balanced in (False, True):
        network = FCNN(2, 8)
        train(network, pixels, labels, make_settings(8, 0.05, batch_size=32, balanced=balanced))
        found = network.forward(asked).argmax(1)
        recalls.append((found[answers == 1] == 1).double().mean().item())
    assert recalls[1] > recalls[0] + 0.2
