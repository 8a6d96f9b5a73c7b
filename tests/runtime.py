"""A Lambda function on this machine: AWS's own runtime client in a process of its own, and the Runtime API that it talks to.

What Lambda does around a function is written after AWS's documentation (Lambda runtime API; execution environment life cycle), not
measured there: initialisation ends when the runtime asks for the next event; a process that fails to initialise, dies or does not
answer in time is thrown away, and the next event starts another; a handler that raises costs the process nothing.
"""

import json
import os
import platform
import queue
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
NATIVE = "arm64" if platform.machine() == "aarch64" else "x86_64"

INITIALISATION = 60                     # seconds; Lambda allows 10, on machines less crowded than those that run tests
VERSION = "/2018-06-01/runtime/"


class Result(NamedTuple):
    """What an invocation returns: the handler's answer, or if `failed` an object with errorType and errorMessage."""

    payload: Any
    failed: bool


def build(output, models, *, arch=NATIVE, folder=ROOT, **environment):
    """Runs lambda/build.py for both models, in another folder if need be: its CompletedProcess."""
    command = [sys.executable, ROOT / "lambda/build.py", "--arch", arch, "--output", output, "--model", *sorted(models.iterdir())]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment)


def install_client(python, folder):
    """The runtime client and botocore, which Lambda's own Python 3.13 has, into a folder. Raises CalledProcessError, offline say."""
    part = folder.with_suffix(".part")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "--no-compile"]
    subprocess.run([*command, "-c", ROOT / "constraints.txt", "--only-binary=:all:", "--python-version=3.13", "--target", part,
                    "awslambdaric", "botocore"], check=True, capture_output=True, text=True)
    subprocess.run([python, "-S", "-m", "compileall", "-q", part], check=True)
    part.rename(folder)


class Function:
    """A function. `code` is its folder, `path` the folders of its layers and of the runtime; `log` a file, for stdout and stderr."""

    def __init__(self, python, code, path, environment, log, handler="get_scene.handler", timeout=30):
        self.command = [python, "-S", "-m", "awslambdaric", handler]            # -S: no packages but those in the folders
        self.code, self.log, self.timeout = code, log, timeout
        self.environment = {
            "PATH": "/usr/bin:/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC", "PYTHONPATH": ":".join(map(str, [code, *path])),
            "LAMBDA_TASK_ROOT": str(code), "LAMBDA_RUNTIME_DIR": str(path[-1]), "_HANDLER": handler,
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13", "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_FUNCTION_NAME": "scene", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/scene", "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0",
            "AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
        } | environment
        self.process = self.api = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts the process, as Lambda does when there is no idle one."""
        self.api = RuntimeApi()
        environment = self.environment | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_port}"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.code, env=environment, stdout=log, stderr=log)
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        threading.Thread(target=self.api.watch, args=(self.process,), daemon=True).start()

    def stop(self):
        """Ends the process, if there is one, however busy it is."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.api.close()
            self.process = self.api = None

    def invoke(self, event):
        """Sends an event, any value that JSON has, and waits for the Result."""
        if not self.process:
            self.start()
        request_id = str(uuid.uuid4())
        kind, payload = self.api.report(INITIALISATION)
        if kind == "next":
            self.api.events.put((request_id, self.timeout, json.dumps(event).encode()))
            kind, payload = self.api.report(self.timeout)
        if kind == "response":
            return Result(payload, failed=False)
        if kind != "error":
            self.stop()
        return Result(payload | {"errorMessage": f"RequestId: {request_id} {payload['errorMessage']}"}, failed=True)

    def peak_memory(self):
        """Bytes of memory that the process held at its most (Linux)."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))


class RuntimeApi(ThreadingHTTPServer):
    """The server for one process. `events` go to it; reports come back: (next | response | error | init/error | exit, payload)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.events, self.reports = queue.Queue(), queue.Queue()

    def watch(self, process):
        code = process.wait()
        self.reports.put(("exit", {"errorType": "Runtime.ExitError", "errorMessage": f"Error: Runtime exited with status {code}"}))

    def report(self, seconds):
        """The next report, or a time-out."""
        try:
            return self.reports.get(timeout=seconds)
        except queue.Empty:
            return "timeout", {"errorType": "Sandbox.Timedout", "errorMessage": f"Error: Task timed out after {seconds:.2f} seconds"}

    def handle_error(self, *_):
        """A process that was ended has hung up: no news."""

    def close(self):
        self.events.put(None)           # for whoever waits for the next one
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """The four calls that a runtime may make."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1           # headers and body in one packet: the second of two would wait 40 ms for an acknowledgement

    def do_GET(self):
        if self.path != VERSION + "invocation/next":
            return self.send_error(404)
        self.server.reports.put(("next", None))
        event = self.server.events.get()
        if event is None:
            return None
        request_id, seconds, body = event
        return self.answer(200, body, {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": int(1000 * (time.time() + seconds)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:123456789012:function:scene",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.removeprefix(VERSION)
        if kind != "init/error":                            # invocation/<request id>/response or error
            kind = kind.rpartition("/")[2]
        self.server.reports.put((kind, json.loads(body)))
        self.answer(202, b'{"status":"OK"}', {})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The log is the function's."""
