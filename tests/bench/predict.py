"""One photo, from its bytes to its probabilities: python -m tests.bench.predict [ROUNDS]

Ours on NumPy and on torch, beside eager torch.nn and onnxruntime, on one thread: the same pretrained CNN, the
photo and its mirror image in one batch. All take turns, and their median and 99th percentile are printed in
milliseconds. Decoding a JPEG of 640x480 is the same for all: photos/decode.py.

onnx and onnxruntime are installed under build/, for this measurement alone.
"""

import io
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scene.answer import modelfile
from scene.answer.classifier import PRETRAINED, Classifier
from scene.photos.decode import decode
from scene.serve import tune_memory
from tests.twins import twin

ROOT = Path(__file__).parents[2]
RIVALS = ROOT / "build/predict"
MODE = "CNN"


def make_photo():
    """The bytes of a JPEG like a camera's: 640x480, smooth, with some noise."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(256, size=(12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    pixels = smooth + generator.integers(-8, 9, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def ours(data, arrays):
    """Our Classifier on either library: pixels -> probabilities."""
    classifier = Classifier.load(data, arrays)
    return lambda pixels: classifier.probabilities(pixels[None])[0]


def both(pixels):
    """The photo and its mirror image: (2, S, S, 3) float32."""
    return np.stack([pixels, pixels[:, ::-1]]).astype(np.float32)


def probabilities(logits):
    """Logits of both, (2, K) -> the softmax of their mean, (K,)."""
    z = logits.mean(0)
    p = np.exp(z - z.max())
    return p / p.sum()


def theirs(data):
    """(torch.nn's eager modules, onnxruntime's session) with the same weights: pixels -> probabilities."""
    network, _ = modelfile.load(data)
    size = network.image_size
    network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
    module = twin(network).eval()

    def eager(pixels):
        with torch.inference_mode():
            return probabilities(module(torch.from_numpy(both(pixels))).numpy())

    if not RIVALS.exists():
        install_rivals()
    sys.path.append(str(RIVALS))
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(module, (torch.zeros(2, size, size, 3),), file, dynamo=False, input_names=["x"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    return eager, lambda pixels: probabilities(session.run(None, {"x": both(pixels)})[0])


def install_rivals():
    """Installs onnx and onnxruntime in RIVALS."""
    options = ["-q", "--only-binary=:all:", "-c", ROOT / "constraints.txt", "--target", RIVALS]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "onnx", "onnxruntime"], check=True)


def milliseconds(function, *arguments):
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - start)


def say(name, times, ratio=""):
    """Prints a line of the result."""
    p99 = statistics.quantiles(times, n=100)[98]
    print(f"{name:14} median {statistics.median(times):6.2f} ms   p99 {p99:6.2f} ms   {ratio}")


def main(rounds):
    torch.set_num_threads(1)
    tune_memory()                                           # all sides gain from it
    data, photo = Path(PRETRAINED[MODE]).read_bytes(), make_photo()
    sides = {"NumPy": ours(data, "numpy"), "torch": ours(data, "torch")}
    sides["torch.nn"], sides["onnxruntime"] = theirs(data)
    size = modelfile.load(data)[0].image_size
    pixels = decode(photo, size)
    for name, side in sides.items():
        np.testing.assert_allclose(side(pixels), sides["NumPy"](pixels), atol=1e-4, err_msg=name)

    decoding, predicting = [], {name: [] for name in sides}
    for _ in range(rounds):
        decoding.append(milliseconds(decode, photo, size))
        for name, side in sides.items():
            predicting[name].append(milliseconds(side, pixels))
    say("decode", decoding)
    usual = statistics.median(predicting["torch.nn"])
    for name, times in predicting.items():
        say(name, times, f"torch.nn / this: {usual / statistics.median(times):.2f}")
    for name, times in predicting.items():
        say(f"+ {name}", [a + b for a, b in zip(decoding, times, strict=True)])


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":       # NumPy's BLAS reads it when it is loaded
        command = [sys.executable, "-m", "tests.bench.predict", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
