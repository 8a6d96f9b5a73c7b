"""Looking inside, training steps and planted bugs for the page: in one child process, with limits.

These take time and memory that the endpoint must not pay for, torch above all. So a child process does
them, one at a time. It is started when it is first needed, gets SECONDS for each request and MEMORY in all,
and ends when nobody has asked for a while, or when the server does. If it fails, in whatever way, that costs
one answer.

    /inside     {"mode": "CNN", "imageBase64": "…"}             every layer's output
    /step       the same, and "class": "coast"                  a training step
    /check      the same, and "bug": "relu-mask" or ""          all gradients, with that bug or none

Next: page.py
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from scene import memory
from scene.answer import endpoint
from scene.answer.classifier import Classifier
from scene.answer.endpoint import FOR_OURSELVES, Refusal
from scene.answer.gradient_map import NeedsTorch

SECONDS = 30
MEMORY = 1_000_000_000          # bytes of the child's own data
IDLE_SECONDS = 600              # the child ends after so long without a request
FIELDS = {"/inside": {"mode", "imageBase64"}, "/step": {"mode", "imageBase64", "class"},
          "/check": {"mode", "imageBase64", "class", "bug"}}
TOO_MUCH = (f"The network is too large to be taken apart here: that is limited to {SECONDS} seconds and "
            f"{MEMORY // 10**9} GB.")


class Lab:
    """Asks the child process. Any thread may call `answer`."""

    def __init__(self, models: dict[str, str]):
        """models: {mode: path of its model file}."""
        self.models = models
        self.lock = threading.Lock()
        self.child = None

    def answer(self, task: str, body: bytes, request_id: str) -> tuple[int, dict, dict]:
        """As endpoint.answer, for a task of FIELDS: -> (HTTP status, answer, log entry)."""
        entry = {"requestId": request_id, "task": task, "status": 200, "code": None, "milliseconds": {}}
        started = time.perf_counter()
        try:
            found = json.loads(self.ask(task, body))
            if "refused" in found:
                entry |= found.get("log", {})
                raise Refusal(*found["refused"])
        except Refusal as refusal:
            found = endpoint.refuse(refusal, entry)
        entry["milliseconds"]["total"] = endpoint.since(started)
        return entry["status"], found | {"requestId": request_id}, entry

    def ask(self, task: str, body: bytes) -> bytes:
        """What the child answers: a line of JSON. Raises Refusal."""
        if not self.lock.acquire(timeout=SECONDS):
            raise Refusal("too_busy", endpoint.TOO_BUSY)
        try:
            if not self.child or self.child.poll() is not None:
                self.start()
            watchdog = threading.Timer(SECONDS, self.child.kill)
            watchdog.start()
            with suppress(OSError):                 # it has ended
                self.child.stdin.write(f"{task} {len(body)}\n".encode() + body)
                self.child.stdin.flush()
            line = self.child.stdout.readline()
            watchdog.cancel()
            if not line.endswith(b"\n"):            # too slow, or it has ended, most likely out of memory
                self.close()
                raise Refusal("too_much_work", TOO_MUCH)
            return line
        finally:
            self.lock.release()

    def start(self) -> None:
        """Starts a child, in a session of its own: Ctrl-C in a terminal is for the server alone."""
        self.close()
        command = [sys.executable, "-m", "scene.show.lab", json.dumps(self.models)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      start_new_session=True)

    def close(self) -> None:
        """Ends the child."""
        child, self.child = self.child, None
        if child:
            child.kill()
            child.wait()
            with suppress(OSError):                 # what could not be written before it ended
                child.stdin.close()
            child.stdout.close()


# In the child


def live(paths: dict[str, str]) -> None:
    """Answers requests until the parent ends, or as long as somebody asks."""
    limit_memory()
    models = {}
    while True:
        wait(IDLE_SECONDS)
        task, _, length = sys.stdin.buffer.readline().decode().partition(" ")
        if not length:
            return
        wait(0)
        body = sys.stdin.buffer.read(int(length))
        try:
            found = work(task, body, models, paths)
        except Refusal as refusal:
            found = {"refused": [refusal.code, str(refusal)]}
        except NeedsTorch as error:
            found = {"refused": ["needs_torch", str(error)]}
        except Exception as error:
            found = fail(error)
        print(json.dumps(found), flush=True)


def wait(seconds: int) -> None:
    """Ends this process after so many seconds, or never, where the system has alarms."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def fail(error: Exception) -> dict:
    """The answer after an unexpected failure, and what the log says of it."""
    if memory.is_exhausted(error):
        return {"refused": ["too_much_work", TOO_MUCH]}
    return {"refused": ["internal_error", "Something went wrong here: the server's log says what."],
            "log": {"error": endpoint.describe(error)}}


def limit_memory() -> None:
    """Limits this process's data, where the system can: not libraries, of which torch maps gigabytes."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def work(task: str, body: bytes, models: dict[str, Classifier], paths: dict[str, str]) -> dict:
    """The answer to a request. Raises Refusal, NeedsTorch, or anything else."""
    from scene.show import bugs, inside  # here, not above: the parent needs none of it

    request = endpoint.parse(body, FOR_OURSELVES)
    if not isinstance(request, dict) or not request.keys() <= FIELDS[task] \
            or not all(isinstance(value, str) for value in request.values()):
        raise Refusal("unknown_field", f"Send an object of strings: {', '.join(sorted(FIELDS[task]))}.")
    mode = endpoint.check_mode(request.get("mode", ""))
    if mode not in paths:
        raise Refusal("model_missing", f"There is no {mode} model here.")
    if mode not in models:
        models[mode] = Classifier.open(paths[mode])
    model = models[mode]
    photo = endpoint.read_base64(request.get("imageBase64", ""))
    pixels = endpoint.decode_photo(photo, model.image_size, FOR_OURSELVES.limits)
    if task == "/inside":
        return {"stages": inside.look(model, pixels)}
    if request.get("class") not in model.classes:
        raise Refusal("unknown_field", "The field class must be one of the model's classes.")
    label = model.classes.index(request["class"])
    if task == "/step":
        return inside.train(model, pixels, label)
    if request.get("bug", "") not in {"", *bugs.of_the_network(model)}:
        raise Refusal("unknown_field", "The field bug must be one of those that this network can have.")
    return bugs.check(model, pixels, label, request.get("bug", ""))


if __name__ == "__main__":
    live(json.loads(sys.argv[1]))
