"""The parts of a warm request, and scene.serve under load: python -m tests.bench.load MODEL [SECONDS]

First the parts of a request about a 640x480 JPEG, in this process, on one core. Then a server process and
four clients, each of which sends its next request as soon as the last is answered: requests per second, p50
and p99 of the clients' waiting time, and the server's memory. SECONDS: how long (default: 60). The clients
need a core of their own.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"         # before NumPy is imported: one core, as in AWS Lambda to 1.8 GB

import base64  # noqa: E402
import http.client  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402

from PIL import Image  # noqa: E402

from scene.answer import endpoint  # noqa: E402
from scene.answer.classifier import Classifier  # noqa: E402
from scene.memory import return_freed  # noqa: E402

CLIENTS = 4
WARM = 300                  # requests, the first 10 of which are the warm-up


def request(mode):
    """A request with one of the example's photos, resized to 640x480."""
    path = Path(__file__).parents[2] / "datasets/test/ocean/ocean_000.jpg"
    photo = Image.open(path).resize((640, 480), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    print(f"A JPEG of 640x480, {file.tell() / 1000:.0f} kB; {mode}")
    return json.dumps({"mode": mode, "imageBase64": base64.b64encode(file.getvalue()).decode()}).encode()


def warm(model, body):
    """Prints the median milliseconds of a request's parts, with malloc tuned as in scene.serve."""
    return_freed()
    entries = [endpoint.answer(body, "bench", lambda mode: model)[2] for _ in range(WARM)][10:]
    parts = [entry["milliseconds"] for entry in entries]
    medians = [f"{name} {statistics.median(part[name] for part in parts):.2f} ms" for name in parts[0]]
    print(f"Warm, median of {len(parts)}: {', '.join(medians)}")


def client(port, body, until):
    """Sends one request after the other until then; returns the seconds that each answer took."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    times = []
    while time.perf_counter() < until:
        started = time.perf_counter()
        connection.request("POST", "/get_scene", body)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        times.append(time.perf_counter() - started)
    return times


def memory(process):
    """Resident and peak memory of a process, in MB (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "VmHWM")]


def load(path, body, seconds):
    """Prints the rate, the waiting times of the clients and the memory of a server."""
    command = [sys.executable, "-m", "scene.serve", "--model", path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process, ThreadPoolExecutor(CLIENTS + 1) as pool:
        port = int(re.search(r":(\d+)/get_scene", process.stdout.readline())[1])
        pool.submit(process.stdout.read)                # its log
        client(port, body, time.perf_counter() + 1)
        before, _ = memory(process)
        started = time.perf_counter()
        clients = [pool.submit(client, port, body, started + seconds) for _ in range(CLIENTS)]
        times = sorted(t for client in clients for t in client.result())
        took = time.perf_counter() - started
        after, peak = memory(process)
        process.terminate()
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    print(f"{CLIENTS} clients for {took:.0f} s: {len(times)} answers, {len(times) / took:.0f}/s, "
          f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
          f"memory {before:.0f} MB before, {after:.0f} MB after, {peak:.0f} MB at most")


if __name__ == "__main__":
    path = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    model = Classifier.open(path)
    body = request(model.mode)
    warm(model, body)
    load(path, body, seconds)
