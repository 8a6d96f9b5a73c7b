"""A cold start, ours beside torch.nn's and onnxruntime's: python -m tests.bench.cold_start [ROUNDS]

From the start of a process to its first answer, about a photo of 640x480, in AWS's own runtime client; the model comes from an S3
server on this machine. Four handlers take turns: ours from the built zips and onnxruntime's in Python 3.13; ours from its sources and
torch.nn's in this Python, since the tests' torch is this one's. All fetch and decode alike, use one thread, have their modules
compiled, and must find the same probabilities. The processor's time tells what a busy machine does to the clock's.

It needs python3.13 and binutils, and installs onnx and onnxruntime under build/, for itself alone.
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

import boto3
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

from scene import modelfile
from scene.models import MODES
from tests.bench.rivals.common import CLASSES, SIZE
from tests.runtime import NATIVE, ROOT, Function, build, install_client
from tests.twins import twin

CACHE = ROOT / "build/cold_start"
RIVALS = ROOT / "tests/bench/rivals"
# Of each part of a cold start, in the order in which Lambda and get_scene.py import them.
PARTS = "awslambdaric.bootstrap", "botocore.auth, botocore.awsrequest", "numpy", "PIL.JpegImagePlugin, PIL.PngImagePlugin", \
    "safetensors.numpy", "scene.endpoint, get_scene"


def install(name, *options):
    """A package and what it needs, in a folder of its own."""
    folder = CACHE / name
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", *options]
        subprocess.run([*command, "-c", ROOT / "constraints.txt", "--target", folder, name], check=True)
    return folder


def write_models(folder):
    """model_FCNN, model_CNN, and the CNN as model.onnx; none of them ever learned anything."""
    for mode, kind in MODES.items():
        network = kind(len(CLASSES)).start(torch.Generator().manual_seed(0))
        card = {"mode": mode, "classes": CLASSES, "architecture": network.architecture, "fit": "stretch", "mirror": True}
        modelfile.save(folder / f"model_{mode}", network, card)
    sys.path.append(str(install("onnx")))
    torch.onnx.export(twin(network).eval(), (torch.zeros(2, SIZE, SIZE, 3),), folder / "model.onnx", dynamo=False, input_names=["x"])


def photo():
    """An event that asks about a photo of 640x480."""
    file = io.BytesIO()
    Image.open(ROOT / "datasets/test/ocean/ocean_000.jpg").resize((640, 480)).save(file, "JPEG", quality=90)
    return {"mode": "CNN", "imageBase64": base64.b64encode(file.getvalue()).decode()}


def serve_s3(folder):
    """An S3 server with what is in the folder: -> server, what a function's environment says of it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret")
    client.create_bucket(Bucket="models")
    for path in folder.iterdir():
        client.upload_file(str(path), "models", path.name)
    return server, {"SCENE_BUCKET": "models", "AWS_ENDPOINT_URL_S3": url, "OMP_NUM_THREADS": "1",
                    "MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "4194304"}      # as in cloudformation/template.yaml


def start(function, event):
    """One cold start: seconds by the clock and by the processor, the most memory, the answer, the log's line."""
    began = time.perf_counter()
    with function:
        answer, failed = function.invoke(event)
        seconds = time.perf_counter() - began
        assert not failed, answer
        fields = Path(f"/proc/{function.process.pid}/stat").read_text().rpartition(")")[2].split()
        processor = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds, processor, function.peak_memory(), answer["probabilities"]


def race(functions, event, rounds):
    """Starts them all in turn and prints their medians: -> {name: (seconds, processor's seconds, bytes)}."""
    results = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in functions.items():
            result = start(function, event)
            if i:                                           # the first time only warms the disk's cache
                results[name].append(result)
    answers = [answer for name in functions for *_, answer in results[name]]
    for answer in answers:
        assert all(abs(answer[name] - answers[0][name]) < 1e-4 for name in CLASSES), f"{answer} is not {answers[0]}"
    medians = {}
    for name, rows in results.items():
        medians[name] = [statistics.median(column) for column in list(zip(*rows, strict=True))[:3]]
        seconds, processor, memory = medians[name]
        print(f"{name:28} {1000 * seconds:6.0f} ms   processor {1000 * processor:6.0f} ms   at most {memory / 1e6:4.0f} MB", flush=True)
    return medians


def show_parts(function, rounds):
    """Prints the processor's time of each import, in a process that makes them one after the other, and of the first request's parts."""
    script = "import json, time\ntimes = [time.process_time()]\n" + "".join(
        f"import {names}\ntimes.append(time.process_time())\n" for names in PARTS) + "print(json.dumps(times))"
    command, rows = [function.command[0], "-S", "-c", script], []
    for _ in range(rounds):
        times = json.loads(subprocess.run(command, env=function.environment, capture_output=True, text=True, check=True).stdout)
        rows.append([times[0], *(b - a for a, b in zip(times, times[1:], strict=False))])
    for name, column in zip(["interpreter", *PARTS], zip(*rows, strict=True), strict=True):
        print(f"  {1000 * statistics.median(column):6.1f} ms  {name}")
    lines = [json.loads(line)["milliseconds"] for line in Path(function.log).read_text().splitlines()]
    for part in "model", "decode", "predict":
        print(f"  {statistics.median(line[part] for line in lines):6.1f} ms  first request: {part}, by the clock")


def main(rounds):
    sys.path.insert(0, str(ROOT / "lambda"))
    from build import find_python

    python = find_python()
    CACHE.mkdir(parents=True, exist_ok=True)
    client = CACHE / "client"
    if not client.exists():
        install_client(python, client)
    linux = f"manylinux_2_28_{os.uname().machine}", f"manylinux2014_{os.uname().machine}"
    onnxruntime = install("onnxruntime", "--python-version=3.13", *(f"--platform={name}" for name in linux), "--no-compile", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        models, bundle = folder / "models", folder / "bundle"
        models.mkdir()
        write_models(models)
        (models / "model.onnx").rename(folder / "model.onnx")
        made = build(bundle, models)
        assert made.returncode == 0, made.stderr
        (folder / "model.onnx").rename(models / "model.onnx")
        for name in "get_scene.zip", f"layer-{NATIVE}.zip":
            zipfile.ZipFile(bundle / name).extractall(folder / name)
        subprocess.run([python, "-S", "-m", "compileall", "-q", onnxruntime], stdout=subprocess.DEVNULL)     # some packages bring templates
        server, environment = serve_s3(models)
        here, layer = [ROOT, sysconfig.get_path("purelib")], folder / f"layer-{NATIVE}.zip/python"
        ours = Function(python, folder / "get_scene.zip", [layer, client], environment, folder / "log")
        functions = {
            "ours, Python 3.13": ours,
            "onnxruntime, Python 3.13": Function(python, RIVALS, [onnxruntime, client], environment, folder / "onnxruntime",
                                                 "with_onnxruntime.handler"),
            "ours, this Python": Function(sys.executable, ROOT / "lambda", here, environment, folder / "here"),
            "torch.nn, this Python": Function(sys.executable, RIVALS, here, environment, folder / "torch", "with_torch.handler"),
        }
        print(f"Python {sys.version.split()[0]} and 3.13, torch {torch.__version__}, median of {rounds} rounds in turn")
        medians = race(functions, photo(), rounds)
        for kind, column in ("clock", 0), ("processor", 1):
            onnx = medians["onnxruntime, Python 3.13"][column] / medians["ours, Python 3.13"][column]
            nn = medians["torch.nn, this Python"][column] / medians["ours, this Python"][column]
            print(f"by the {kind}: torch.nn takes {nn:.2f} times as long, onnxruntime {onnx:.2f} times")
        show_parts(ours, rounds)
        server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
