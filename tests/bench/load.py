"""scene.serve under load, and where the time of one request goes: python -m tests.bench.load MODEL [SECONDS]

First the parts of a warm request for a 640x480 JPEG, in this process, on one core. Then a server process and four clients, each with a
connection and the next request as soon as the last is answered: requests per second, p50 and p99 of what the clients wait, and the
server's memory. SECONDS: how long, 60 unless given. The clients need a core for themselves.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"         # before NumPy is imported: one core, as in AWS Lambda below 1.8 GB

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

from scene import endpoint, serve  # noqa: E402

CLIENTS, WARM = 4, 300


def request(mode):
    """A request with one of the example's photos, made 640x480."""
    photo = Image.open(Path(__file__).parents[2] / "datasets/test/ocean/ocean_000.jpg").resize((640, 480), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    print(f"A JPEG of 640x480, {file.tell() / 1000:.0f} kB; {mode}")
    return json.dumps({"mode": mode, "imageBase64": base64.b64encode(file.getvalue()).decode()}).encode()


def warm(model, body):
    """Prints the median milliseconds of the parts of a request, with memory kept as in scene.serve and in the stack."""
    serve.tune_memory()
    parts = [endpoint.answer(body, "bench", lambda mode: model)[2]["milliseconds"] for _ in range(WARM)][10:]
    print(f"Warm, median of {len(parts)}: " + ", ".join(f"{name} {statistics.median(p[name] for p in parts):.2f} ms" for name in parts[0]))


def client(port, body, until):
    """The seconds that each answer took."""
    connection, times = http.client.HTTPConnection("127.0.0.1", port, timeout=30), []
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
    """Prints what the clients of a server saw."""
    command = [sys.executable, "-m", "scene.serve", "--model", path, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ThreadPoolExecutor(CLIENTS + 1) as pool:
        port = int(re.search(r":(\d+)/get_scene", process.stdout.readline())[1])
        pool.submit(process.stdout.read)                # its log
        client(port, body, time.perf_counter() + 1)
        before, _ = memory(process)
        started = time.perf_counter()
        clients = [pool.submit(client, port, body, started + seconds) for _ in range(CLIENTS)]
        times = sorted(t for client in clients for t in client.result())
        took, (after, peak) = time.perf_counter() - started, memory(process)
        process.terminate()
    p50, p99 = (1000 * times[int(share * len(times))] for share in (0.5, 0.99))
    print(f"{CLIENTS} clients for {took:.0f} s: {len(times)} answers, {len(times) / took:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
          f"memory {before:.0f} MB before, {after:.0f} MB after, {peak:.0f} MB at most")


if __name__ == "__main__":
    path, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 60
    model = endpoint.load_model(Path(path).read_bytes())
    body = request(model.classifier.network.mode)
    warm(model, body)
    load(path, body, seconds)
