"""A cold start, ours beside torch.nn's and onnxruntime's: python -m tests.bench.cold_start [ROUNDS]

Measures from the start of a process to its first answer, about a photo of 640x480, in AWS's own runtime
client, with the model in an S3 server on this machine. Four handlers take turns: ours from the built zips and
onnxruntime's in Python 3.13, then ours from the sources and torch.nn's in this Python, which has torch. All
fetch and decode in the same way, use one thread and compiled modules, and must give the same probabilities.
On a busy machine, compare processor times rather than clock times.

Needs python3.13 and binutils. Installs onnx and onnxruntime under build/, for this measurement only.
"""

import base64
import io
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

import torch
from PIL import Image

from scene.answer import modelfile
from scene.models import MODES
from tests.bench.rivals.common import CLASSES, SIZE
from tests.runtime import NATIVE, OF_THE_STACK, ROOT, Function, build, install_client, read_files, serve_s3
from tests.twins import twin

CACHE = ROOT / "build/cold_start"
RIVALS = ROOT / "tests/bench/rivals"
PARTS = [                   # imports, in the order of Lambda and get_scene.py
    "awslambdaric.bootstrap",
    "botocore.auth, botocore.awsrequest",
    "numpy",
    "PIL.JpegImagePlugin, PIL.PngImagePlugin",
    "safetensors.numpy",
    "scene.answer.endpoint, get_scene",
]
ROUNDING = 1e-3             # between float32 kernels: with AVX-512 and native BLAS, answers are 2e-4 apart
OURS = "ours, Python 3.13"
ONNX = "onnxruntime, Python 3.13"
OURS_HERE = "ours, this Python"
TORCH_HERE = "torch.nn, this Python"


def install(name, *options):
    """A folder with a package and its dependencies."""
    folder = CACHE / name
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", *options]
        subprocess.run([*command, "-c", ROOT / "constraints.txt", "--target", folder, name], check=True)
    return folder


def write_models(folder):
    """An untrained model for each mode, and the CNN as model.onnx."""
    for mode, entry in MODES.items():
        network = entry.network(len(CLASSES)).start(torch.Generator().manual_seed(0))
        modelfile.save(folder / f"model_{mode}", network, modelfile.make_card(network, mode, CLASSES))
    network, _ = modelfile.load((folder / "model_CNN").read_bytes())        # the file has rounded its weights
    network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
    sys.path.append(str(install("onnx")))
    x = torch.zeros(2, SIZE, SIZE, 3)
    module = twin(network).eval()
    torch.onnx.export(module, (x,), folder / "model.onnx", dynamo=False, input_names=["x"])


def photo():
    """An event that asks about a photo of 640x480."""
    file = io.BytesIO()
    Image.open(ROOT / "datasets/test/ocean/ocean_000.jpg").resize((640, 480)).save(file, "JPEG", quality=90)
    return {"mode": "CNN", "imageBase64": base64.b64encode(file.getvalue()).decode()}


def start(function, event):
    """One cold start: (clock seconds, processor seconds, peak memory in bytes, probabilities)."""
    began = time.perf_counter()
    with function:
        answer, failed = function.invoke(event)
        seconds = time.perf_counter() - began
        assert not failed, answer
        fields = Path(f"/proc/{function.process.pid}/stat").read_text().rpartition(")")[2].split()
        processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds, processor, function.peak_memory(), answer["probabilities"]


def race(functions, event, rounds):
    """Starts the functions in turn. Prints and returns the medians: {name: [clock, processor, memory]}."""
    results = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            result = start(function, event)
            if i:                                           # the first round is the warm-up
                results[name].append(result)
    answers = [answer for name in functions for *_, answer in results[name]]
    for answer in answers:
        same = all(abs(answer[name] - answers[0][name]) < ROUNDING for name in CLASSES)
        assert same, f"{answer} is not {answers[0]}"
    medians = {}
    for name, rows in results.items():
        medians[name] = [statistics.median(column) for column in list(zip(*rows, strict=True))[:3]]
        seconds, processor, memory = medians[name]
        print(f"{name:28} {1000 * seconds:6.0f} ms   processor {1000 * processor:6.0f} ms   "
              f"at most {memory / 1e6:4.0f} MB", flush=True)
    return medians


def restore(function, event, rounds):
    """Prints the time from the end of a restore to the first answer, with SnapStart: the median.

    Restoring the snapshot itself is AWS's part, and is not measured.
    """
    function.environment |= {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    times = []
    for _ in range(rounds):
        with function:
            function.snapshot()
            began = time.perf_counter()
            answer, failed = function.invoke(event)
            times.append(1000 * (time.perf_counter() - began))
            assert not failed, answer
    function.environment |= {"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}
    print(f"ours with SnapStart: {statistics.median(times):.0f} ms from the restored snapshot to the answer")


def show_parts(function, rounds):
    """Prints the processor's time for each import, and the clock's for each part of the first request."""
    imports = "".join(f"import {names}\ntimes.append(time.process_time())\n" for names in PARTS)
    script = f"import json, time\ntimes = [time.process_time()]\n{imports}print(json.dumps(times))"
    command = [function.command[0], "-S", "-c", script]
    rows = []
    for _ in range(rounds):
        done = subprocess.run(command, env=function.environment, capture_output=True, text=True, check=True)
        times = json.loads(done.stdout)
        rows.append([times[0], *(b - a for a, b in zip(times, times[1:], strict=False))])
    for name, column in zip(["interpreter", *PARTS], zip(*rows, strict=True), strict=True):
        print(f"  {1000 * statistics.median(column):6.1f} ms  {name}")
    lines = [json.loads(line)["milliseconds"] for line in Path(function.log).read_text().splitlines()]
    for part in "model", "decode", "predict":
        median = statistics.median(line[part] for line in lines)
        print(f"  {median:6.1f} ms  first request: {part}, by the clock")


def make_functions(folder, python, environment):
    """{name: Function} of the four handlers. `folder` has the unpacked zips, and receives the logs."""
    client = CACHE / "client"
    if not client.exists():
        install_client(python, client)
    machine = os.uname().machine
    platforms = f"--platform=manylinux_2_28_{machine}", f"--platform=manylinux2014_{machine}"
    onnxruntime = install("onnxruntime", "--python-version=3.13", *platforms, "--no-compile", "pillow")
    # compileall fails on a few templates among the packages' modules.
    subprocess.run([python, "-S", "-m", "compileall", "-q", onnxruntime], stdout=subprocess.DEVNULL)
    here = [ROOT, sysconfig.get_path("purelib")]
    layer = folder / f"layer-{NATIVE}.zip/python"
    return {
        OURS: Function(python, folder / "get_scene.zip", [layer, client], environment, folder / "log"),
        ONNX: Function(python, RIVALS, [onnxruntime, client], environment, folder / "onnxruntime",
                       "with_onnxruntime.handler"),
        OURS_HERE: Function(sys.executable, ROOT / "lambda", here, environment, folder / "here"),
        TORCH_HERE: Function(sys.executable, RIVALS, here, environment, folder / "torch",
                             "with_torch.handler"),
    }


def main(rounds):
    sys.path.insert(0, str(ROOT / "lambda"))
    from build import find_python

    python = find_python()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = folder / "models"
        models.mkdir()
        write_models(models)
        objects = read_files(models)
        (models / "model.onnx").unlink()                    # lambda/build.py takes our models only
        made = build(folder / "bundle", models)
        assert made.returncode == 0, made.stderr
        for name in "get_scene.zip", f"layer-{NATIVE}.zip":
            zipfile.ZipFile(folder / "bundle" / name).extractall(folder / name)
        server, url = serve_s3(objects)
        environment = {"SCENE_BUCKET": "models", "AWS_ENDPOINT_URL_S3": url, "OMP_NUM_THREADS": "1"}
        functions = make_functions(folder, python, environment | OF_THE_STACK)
        print(f"Python {sys.version.split()[0]} and 3.13, torch {torch.__version__}, "
              f"median of {rounds} rounds in turn")
        medians = race(functions, photo(), rounds)
        for kind, column in ("clock", 0), ("processor", 1):
            onnx = medians[ONNX][column] / medians[OURS][column]
            nn = medians[TORCH_HERE][column] / medians[OURS_HERE][column]
            print(f"by the {kind}: torch.nn takes {nn:.2f} times as long, onnxruntime {onnx:.2f} times")
        show_parts(functions[OURS], rounds)
        restore(functions[OURS], photo(), rounds)
        server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
