"""Training on a GPU, checked and timed: python -m tests.bench.gpu [--device cpu]

Checks that fifty steps have the losses of the CPU's, that a CUDA graph computes what its function does, and
that a training that was stopped and resumed ends with the bytes of one that was not. Then it times a step
beside those of the torch.nn twin: eager and compiled, in float32 and under autocast, channels last, with
torch.optim's fused SGD. All steps run the same network on the same photos of random pixels. The float32
convolutions of torch.nn may use TF32, which is torch's default, and ours multiply in float32.

The exit code is 1 if a check fails, and 2 without a GPU. With --device cpu everything runs on the CPU,
without graphs: that tries the script, not the GPU.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from scene.learn.checkpoint import Checkpoint
from scene.learn.graph import recorded
from scene.learn.loop import train
from scene.learn.optim import SGD
from scene.learn.precision import PRECISIONS, set_precision
from scene.models import MODES
from scene.nn.loss import CrossEntropy
from scene.signals import Stopped
from tests.bench.train_step import CLASSES, NETWORKS, RATE, SMOOTHING, start
from tests.jobs import make_settings, photos
from tests.twins import twin

BATCH = 64
CHECKED = 50                # steps
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}         # of their losses, beside the CPU's in float32
ROUNDS, STEPS = 15, 40
COMPILED = "default", "reduce-overhead"
NO_GPU = "torch finds no CUDA device here: --device cpu tries the script on the CPU, without CUDA graphs."


def make_batch(name, device):
    """Random pixels and labels."""
    _, _, side, *_ = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (BATCH, side, side, 3), generator=generator).float()
    return pixels.to(device), torch.randint(CLASSES, (BATCH,), generator=generator).to(device)


def ours(name, device, precision, graphs=True):
    """A step by hand, in a CUDA graph or not, and its network. The step returns the loss, on the device."""
    make, *_ = NETWORKS[name]
    network = start(make())
    network.place(*(vector.to(device) for vector in (network.params, network.state, network.grads)))
    set_precision(network, precision)
    pixels, labels = make_batch(name, device)
    loss, optimizer = CrossEntropy(SMOOTHING), SGD(network)

    def step(rate):
        value = loss.forward(network.forward(pixels, training=True), labels)
        network.backward(loss.backward())
        optimizer.step(rate)
        return value

    if graphs:
        step = recorded(step, device)
        return lambda: step(RATE), network
    rate = torch.full((), RATE, device=device)
    return lambda: step(rate), network


def theirs(name, device, autocast, mode=None):
    """A step of the torch.nn twin, compiled in this mode if there is one."""
    make, *_ = NETWORKS[name]
    module = twin(start(make())).to(device).train()
    for part in module.modules():           # TorchNormalize keeps its tensors as attributes
        for key, value in vars(part).items():
            if isinstance(value, torch.Tensor):
                setattr(part, key, value.to(device))
    pixels, labels = make_batch(name, device)
    optimizer = torch.optim.SGD(module.parameters(), RATE, 0.9, nesterov=True, fused=True)

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            return F.cross_entropy(module(pixels), labels, label_smoothing=SMOOTHING)

    if mode:
        forward = torch.compile(forward, mode=mode, dynamic=False)

    def step():
        value = forward()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def losses(step):
    return torch.tensor([step().item() for _ in range(CHECKED)])


def check(what, difference, bound):
    """Prints the line of a check. Returns whether it holds."""
    holds = difference <= bound             # false for NaN
    print(f"{'ok  ' if holds else 'WRONG'} {what}: {difference:.2g}, at most {bound:g}", flush=True)
    return holds


def check_network(name, device):
    """Compares losses and weights of fifty steps. Returns whether they agree."""
    right = losses(ours(name, "cpu", "float32", graphs=False)[0])
    results = []
    for precision in PRECISIONS:
        plain, plain_network = ours(name, device, precision, graphs=False)
        graph, graph_network = ours(name, device, precision)
        difference = (losses(graph) - right).abs().max().item()
        bound = TOLERANCE[precision]
        results.append(check(f"{name}, {precision}, losses beside the CPU's", difference, bound))
        losses(plain)
        difference = (graph_network.params - plain_network.params).abs().max().item()
        results.append(check(f"{name}, {precision}, weights with and without a graph", difference, 0))
    return all(results)


class StoppedAt(Checkpoint):
    """A checkpoint whose training gets a stop signal in this step."""

    def __init__(self, path, step):
        super().__init__(path, {})
        self.left = step

    def due(self):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return False


def check_resume(mode, device, precision):
    """Trains twice, once with a stop in the middle. Returns whether both end with the same weights."""
    pixels, labels = (array.to(device) for array in photos(200, 32))
    settings = make_settings(epochs=12, learning_rate=0.02, batch_size=32, shard=32, device=device,
                             precision=precision, small_start=mode == "CNN")

    def trained(checkpoint=None):
        network = MODES[mode].network(3, 32)
        train(network, pixels, labels, settings, checkpoint=checkpoint)
        return network

    whole = trained()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        try:
            trained(StoppedAt(path, 40))
        except Stopped:
            resumed = trained(Checkpoint(path, {}))
    difference = (whole.params - resumed.params).abs().max().item()
    return check(f"{mode}, {precision}, weights of a training stopped in step 40 and resumed", difference, 0)


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(step, device, count):
    """The time of `count` steps in a row."""
    wait(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    wait(device)
    return time.perf_counter() - started


def race(name, device, modes, rounds, count):
    """Times all steps in turn, and prints images per second: the median of the rounds."""
    torch.compiler.reset()          # else it stops compiling after eight functions from the same lines
    steps = {"ours, eager, bfloat16": ours(name, device, "bfloat16", graphs=False)[0]}
    steps |= {f"ours, {precision}": ours(name, device, precision)[0] for precision in PRECISIONS}
    for mode in None, *modes:
        how = f"compiled ({mode})" if mode else "eager"
        steps[f"torch.nn, {how}, float32"] = theirs(name, device, False, mode)
        steps[f"torch.nn, {how}, autocast"] = theirs(name, device, True, mode)
    for step in steps.values():
        seconds(step, device, 10)           # compiles, and records
    times = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            times[key].append(seconds(step, device, count))
    rates = {key: BATCH * count / statistics.median(values) for key, values in times.items()}
    best = max(value for key, value in rates.items() if key.startswith("ours"))
    print(f"\n{name}, batches of {BATCH}: images per second, and how many times as fast our fastest is")
    for key, value in rates.items():
        print(f"  {key:42} {value:10.0f}   {best / value:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="in a round")
    parser.add_argument("--no-compile", action="store_true", help="without the compiled partners")
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    card = torch.cuda.get_device_name() if device == "cuda" else "the CPU, one thread, no CUDA graphs"
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {card}", flush=True)
    results = [check_network(name, device) for name in NETWORKS]
    results += [check_resume(mode, device, precision) for mode in MODES for precision in PRECISIONS]
    for name in NETWORKS:
        race(name, device, () if options.no_compile else COMPILED, options.rounds, options.steps)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
