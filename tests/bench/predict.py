"""Predicting: python -m tests.bench.predict [ROUNDS]

The pretrained CNN on NumPy and on torch, beside torch.nn eager and compiled, onnxruntime, and OpenVINO in
float32 and in its own choice, bfloat16 where the processor multiplies it fast. Each photo goes in with its
mirror image.

First one photo on one thread, from its pixels to its probabilities. All sides take turns, and their median
and 99th percentile are printed. Decoding a JPEG of 640x480 is the same for all: photos/decode.py.

Then 1000 decoded photos on all cores. Each partner tries batches of several sizes, with threads that share
the work of a batch, and with a copy of the model for each core. Its fastest way races against ours, which is
forked processes as in the test after training.

onnx, onnxruntime and openvino are installed under build/, for this measurement alone.
"""

import functools
import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scene.answer import modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.photos.decode import decode
from scene.processes import cores, parallel_map
from tests.machine import describe, tune_memory, unset_blas_overrides
from tests.twins import twin

ROOT = Path(__file__).parents[2]
RIVALS = ROOT / "build/predict"
DATA = Path(PRETRAINED["CNN"]).read_bytes()
SIZE = modelfile.load(DATA)[0].image_size

PHOTOS, BATCHES = 1000, (10, 20)            # batches of 50 were slower for every partner
TRIAL = 200                 # photos that choose a partner's way
ROUNDS = 5                  # of all photos


def make_photo():
    """The bytes of a JPEG like a camera's: 640x480, smooth, with some noise."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(256, size=(12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    pixels = smooth + generator.integers(-8, 9, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


# A side is made for batches of n photos and a number of threads. It takes uint8 (n, S, S, 3) and returns the
# probabilities, (n, K).


def ours(arrays, n, threads):
    """Our Classifier on either library."""
    torch.set_num_threads(threads)
    return Classifier.load(DATA, arrays).probabilities


def answer(logits, pixels):
    """Probabilities from `logits`, a function: photos and their mirror images, (2n, S, S, 3) -> (2n, K)."""
    z = logits(np.concatenate([pixels, pixels[:, :, ::-1]]).astype(np.float32))
    z = z.reshape(2, len(pixels), -1).mean(0)
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@functools.cache
def module():
    """The twin of the network, with the same weights."""
    network, _ = modelfile.load(DATA)
    network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
    return twin(network).eval()


@functools.cache
def compiled():
    """The twin, compiled for each number of threads and batch size that it meets."""
    return torch.compile(module(), dynamic=False)


def torch_nn(make, n, threads):
    torch.set_num_threads(threads)
    run = make()

    def logits(x):
        with torch.inference_mode():
            return run(torch.from_numpy(x)).numpy()

    return functools.partial(answer, logits)


@functools.cache
def onnx(n):
    """The twin as an ONNX file for batches of n photos."""
    file = io.BytesIO()
    torch.onnx.export(module(), (torch.zeros(2 * n, SIZE, SIZE, 3),), file, dynamo=False, input_names=["x"])
    return file.getvalue()


def onnxruntime(n, threads):
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(onnx(n), options)
    return functools.partial(answer, lambda x: session.run(None, {"x": x})[0])


def openvino(precision, n, threads):
    from openvino import Core

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    options |= {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    core = Core()
    request = core.compile_model(core.read_model(onnx(n)), "CPU", options).create_infer_request()
    return functools.partial(answer, lambda x: request.infer([x], share_inputs=True)[0])


SIDES = {
    "NumPy": functools.partial(ours, "numpy"),
    "torch": functools.partial(ours, "torch"),
    "torch.nn": functools.partial(torch_nn, module),
    "compiled": functools.partial(torch_nn, compiled),
    "onnxruntime": onnxruntime,
    "OpenVINO": functools.partial(openvino, "f32"),
    "OpenVINO's choice": functools.partial(openvino, None),
}
PARTNERS = list(SIDES)[2:]


def install_rivals():
    """Installs what is not there yet in RIVALS, and makes it importable."""
    missing = [name for name in ("onnx", "onnxruntime", "openvino") if not (RIVALS / name).exists()]
    options = ["-q", "--only-binary=:all:", "-c", ROOT / "constraints.txt", "--target", RIVALS]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *missing], check=True)
    sys.path.append(str(RIVALS))


def milliseconds(function, *arguments):
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - start)


def say(name, times, ratio=""):
    """Prints a line of the result."""
    p99 = statistics.quantiles(times, n=100)[98]
    print(f"{name:18} median {statistics.median(times):6.2f} ms   p99 {p99:6.2f} ms   {ratio}", flush=True)


def check(name, p, expected):
    """All compute the same. OpenVINO's choice has two or three digits."""
    np.testing.assert_allclose(p, expected, atol=0.02 if "choice" in name else 1e-4, err_msg=name)


def one_photo(rounds):
    """One photo on one thread."""
    photo = make_photo()
    pixels = decode(photo, SIZE)[None]
    sides = {name: make(1, 1) for name, make in SIDES.items()}
    for name, side in sides.items():
        check(name, side(pixels), sides["NumPy"](pixels))
    decoding, predicting = [], {name: [] for name in sides}
    for _ in range(rounds):
        decoding.append(milliseconds(decode, photo, SIZE))
        for name, side in sides.items():
            predicting[name].append(milliseconds(side, pixels))
    print(f"\nOne photo on one thread, {rounds} rounds")
    say("decode", decoding)
    mine = statistics.median(predicting["NumPy"])
    for name, times in predicting.items():
        say(name, times, f"this / NumPy: {statistics.median(times) / mine:.2f}")


def one_by_one(make, n):
    """A batch at a time, with threads that share its work: photos -> probabilities."""
    side = make(n, cores())

    def run(photos):
        torch.set_num_threads(cores())
        return np.concatenate([side(photos[i:i + n]) for i in range(0, len(photos), n)])

    return run


def side_by_side(make, n):
    """A model per core, each with a thread that takes its share of the batches: photos -> probabilities."""
    sides = [make(n, 1) for _ in range(cores())]
    pool = ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))

    def share(rank, photos):
        return {i: sides[rank](photos[i:i + n]) for i in range(rank * n, len(photos), cores() * n)}

    def run(photos):
        shares = pool.map(share, range(cores()), itertools.repeat(photos))
        results = functools.reduce(dict.__or__, shares)
        return np.concatenate([results[i] for i in sorted(results)])

    return run


def many_photos():
    """Photos per second on all cores."""
    photos = np.random.default_rng(0).integers(256, size=(PHOTOS, SIZE, SIZE, 3), dtype=np.uint8)
    classifier = Classifier.load(DATA)
    races = {"NumPy": lambda photos: classifier.probabilities(photos, parallel_map)}
    expected = classifier.probabilities(photos, parallel_map)
    print(f"\n{PHOTOS} photos on {cores()} cores, {ROUNDS} rounds")
    for name in PARTNERS:
        ways = {(way.__name__, n): way(SIDES[name], n) for way in (one_by_one, side_by_side) for n in BATCHES}
        for run in ways.values():
            check(name, run(photos[:TRIAL]), expected[:TRIAL])          # which also warms up
        best = min(ways, key=lambda way: milliseconds(ways[way], photos[:TRIAL]))
        races[f"{name}, {best[0].replace('_', ' ')}, {best[1]}"] = ways[best]
    times = {name: [] for name in races}
    for _ in range(ROUNDS):
        for name, run in races.items():
            time.sleep(0.3)                                 # until the threads of the side before fall asleep
            times[name].append(milliseconds(run, photos))
    mine = statistics.median(times["NumPy"])
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"{name:38} {1000 * PHOTOS / middle:6.0f} photos/s   this / NumPy, times: {middle / mine:.2f}")


if __name__ == "__main__":
    unset_blas_overrides("tests.bench.predict")
    print(describe())
    tune_memory()                                           # all sides gain from it
    install_rivals()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
        one_photo(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
        many_photos()
