"""Requests for the endpoint, a server to send them to, and checks that hold for every answer."""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from scene.answer import endpoint, modelfile
from scene.answer.classifier import Classifier
from scene.learn.calibrate import calibrate
from scene.models import MODES
from scene.photos.folder import Photos

OCEAN = (Path(__file__).parent.parent / "datasets/test/ocean/ocean_000.jpg").read_bytes()
CLASSES = ["sea", "meadow", "road"]


def small_network(mode, seed=0):
    """An untrained network, which still gives each photo different probabilities."""
    return MODES[mode].network(len(CLASSES), 16).start(torch.Generator().manual_seed(seed))


def overflowing_network(mode):
    """A network whose weights are finite but so large that its answers are NaN."""
    network = small_network(mode)
    network.params[network.decayed:] *= 3e38                # the scales of its norms
    return network


def model_file(network, mode, path):
    """Writes a network of this mode to a model file, and returns the file's bytes."""
    modelfile.save(path, network, modelfile.make_card(network, mode, CLASSES))
    return path.read_bytes()


def model_files(folder):
    """Writes folder/model_<mode> for every mode, and returns {mode: the file's bytes}."""
    return {mode: model_file(small_network(mode), mode, folder / f"model_{mode}") for mode in MODES}


def calibrated(mode="FCNN", **changes):
    """The bytes of a small model with a calibration, some of whose arrays are changed, or missing if None."""
    network = small_network(mode)
    card = modelfile.make_card(network, mode, CLASSES)
    pixels = np.random.default_rng(0).integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
    photos = Photos(pixels, np.arange(60) % 3, [""] * 60, CLASSES)
    found = calibrate(Classifier(network, card), photos, photos, 0.4) | changes
    found = {name: array for name, array in found.items() if array is not None}
    return modelfile.encode(network, card | {"calibration": found})


def check(status, text, request_id):
    """Checks an answer: ASCII JSON with the request's id and, for an error, its status and one sentence."""
    answer = json.loads(text, parse_constant=pytest.fail)
    assert text.isascii() and answer["requestId"] == request_id
    if status == 200:
        assert answer.keys() - {"sure", "reason"} == {"scene", "probabilities", "mode", "model", "requestId"}
        assert ("reason" in answer) == (answer.get("sure") is False)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    else:
        assert set(answer) == {"error", "requestId"} and set(answer["error"]) == {"code", "message"}
        assert endpoint.STATUS[answer["error"]["code"]] == status
        message = answer["error"]["message"]
        assert message[0].isupper() and message[-1] == "." and "\n" not in message and len(message) < 200
        assert not re.search(r"/\w+/|\.py|Traceback|Error", message)


def body(mode="CNN", data=OCEAN, **more):
    return json.dumps({"mode": mode, "imageBase64": base64.b64encode(data).decode(), **more}).encode()


GOOD = body("CNN")


class Server:
    """A scene.serve process on a free port, with the given changes to the module's constants."""

    def __init__(self, folder, *arguments, **constants):
        change = "".join(f"serve.{name} = {value}; " for name, value in constants.items())
        program = "import sys; from scene import errors, serve; " \
            f"{change}sys.exit(errors.run(serve.run, serve.parse(None)))"
        command = [sys.executable, "-c", program, "--port", "0", *map(str, arguments)]
        self.log = folder / "log"
        self.errors = folder / "errors"
        with open(self.log, "wb") as log, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(command, stdout=log, stderr=errors)
        self.until(lambda: "curl" in self.log.read_text())
        self.greeting = self.log.read_text()
        self.port = int(re.search(r":(\d+)/get_scene", self.greeting)[1])

    def until(self, true):
        deadline = time.monotonic() + 30
        while not true():
            assert time.monotonic() < deadline and self.process.poll() is None, self.errors.read_text()
            time.sleep(0.02)

    def lines(self):
        """The lines of its log, parsed."""
        return [json.loads(line) for line in self.log.read_text()[len(self.greeting):].splitlines()]

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, data=GOOD, method="POST", path="/get_scene", connection=None):
        """(status, answer), checked. Leaves a given connection open."""
        client = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        client.request(method, path, data)
        response = client.getresponse()
        text = response.read().decode()
        check(response.status, text, json.loads(text)["requestId"])
        assert response.headers["Content-Type"] == "application/json"
        if connection is None:
            client.close()
        return response.status, json.loads(text)

    def get(self, path, method="GET", **headers):
        """(status, headers, answer): parsed, if it is JSON, and else text."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        client.request(method, path, headers=headers)
        response = client.getresponse()
        text = response.read().decode()
        client.close()
        found = dict(response.headers)
        is_json = found.get("Content-Type") == "application/json" and text
        return response.status, found, json.loads(text) if is_json else text

    def send(self, data):
        """Sends raw bytes and nothing after them, and returns the reply as `receive` does."""
        with self.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)         # else the server would wait for more
            return receive(connection)

    def threads(self):
        """The number of its threads (Linux): one accepts connections, one works, one for each connection."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)[1])

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(20)


def receive(connection):
    """(status, headers, answer, rest): the first reply, checked, and all bytes that follow it."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    length = int(headers["Content-Length"])
    text = rest[:length].decode()
    status = int(first.split()[1])
    check(status, text, json.loads(text)["requestId"])
    return status, headers, json.loads(text), rest[length:]


def request(head="", data=GOOD, length=None):
    """The bytes of a POST, with more header lines, or with a false Content-Length."""
    length = len(data) if length is None else length
    head = f"Host: localhost\r\nContent-Length: {length}\r\n{head}"
    return f"POST /get_scene HTTP/1.1\r\n{head}\r\n".encode() + data
