"""A Lambda function on this machine: AWS's own runtime client in a process, the Runtime API it calls, and S3.

The behaviour follows AWS's documentation (Lambda runtime API, execution environment life cycle) and was not
measured on AWS. Initialisation ends when the runtime asks for the next event. A process that fails to
initialise, dies or does not answer in time is discarded, and the next event starts another. A handler that
raises does not end its process.
"""

import json
import os
import platform
import queue
import socket
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

INITIALISATION = 60                     # seconds: Lambda allows 10, but machines that run tests are busier
VERSION = "/2018-06-01/runtime/"


class Result(NamedTuple):
    """The handler's answer to an invocation or, if `failed`, an object with errorType and errorMessage."""

    payload: Any
    failed: bool


def build(output, models, *, arch=NATIVE, folder=ROOT, **environment):
    """Runs lambda/build.py in `folder` on all files in `models`, and returns its CompletedProcess."""
    command = [sys.executable, ROOT / "lambda/build.py", "--arch", arch, "--output", output]
    command += ["--model", *sorted(models.iterdir())]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | environment)


def install_client(python, folder):
    """Puts the runtime client and botocore, which Lambda's Python 3.13 has, into a folder.

    Raises CalledProcessError, for example without a network.
    """
    part = folder.with_suffix(".part")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    command += ["--no-compile", "--only-binary=:all:", "--python-version=3.13"]
    command += ["-c", ROOT / "constraints.txt", "--target", part, "awslambdaric", "botocore"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    subprocess.run([python, "-S", "-m", "compileall", "-q", part], check=True)
    part.rename(folder)


def free_port():
    """A port that nothing listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def read_files(folder):
    """{name: bytes} of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def serve_s3(objects, port=0):
    """Starts S3 with {key: bytes} in the bucket "models": -> (server, URL). The caller stops the server."""
    import boto3  # here, not above: conftest.py imports this file, and the extra `cloud` may be missing
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                          aws_access_key_id="key", aws_secret_access_key="secret")
    client.create_bucket(Bucket="models")
    for key, data in objects.items():
        client.put_object(Bucket="models", Key=key, Body=data)
    return server, url


OF_THE_STACK = {                        # variables that cloudformation/template.yaml sets
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "4194304",
}
SET_BY_LAMBDA = {
    "PATH": "/usr/bin:/bin",
    "LANG": "en_US.UTF-8",
    "TZ": ":UTC",
    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_FUNCTION_NAME": "scene",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/scene",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0",
    "AWS_REGION": "eu-central-1",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_SESSION_TOKEN": "token",
}


class Function:
    """A Lambda function.

    code: its folder. path: the folders of its layers and, last, of the runtime client. environment: its own
    variables. log: the file for its stdout and stderr. timeout: seconds for an answer.
    """

    def __init__(self, python, code, path, environment, log, handler="get_scene.handler", timeout=30):
        self.command = [python, "-S", "-m", "awslambdaric", handler]        # -S: only the folders' packages
        self.code = code
        self.log = log
        self.timeout = timeout
        self.environment = SET_BY_LAMBDA | {
            "PYTHONPATH": ":".join(map(str, [code, *path])), "LAMBDA_TASK_ROOT": str(code),
            "LAMBDA_RUNTIME_DIR": str(path[-1]), "_HANDLER": handler} | environment
        self.process = self.api = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts the process, as Lambda does if none is idle."""
        self.api = RuntimeApi()
        environment = self.environment | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_port}"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.code, env=environment, stdout=log, stderr=log)
        threading.Thread(target=self.api.serve_forever, daemon=True).start()
        threading.Thread(target=self.api.watch, args=(self.process,), daemon=True).start()

    def snapshot(self):
        """Starts a process for SnapStart up to its snapshot. The next event restores it, in no time."""
        self.start()
        report = self.api.report(INITIALISATION)
        assert report[0] == "snapshot", report
        self.api.reports.put(report)

    def stop(self):
        """Kills the process, if there is one."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.api.close()
            self.process = self.api = None

    def invoke(self, event):
        """Sends an event, which may be any JSON value, and waits for the Result."""
        if not self.process:
            self.start()
        request_id = str(uuid.uuid4())
        kind, payload = self.api.report(INITIALISATION)
        if kind == "snapshot":
            self.api.restored.set()
            kind, payload = self.api.report(INITIALISATION)
        if kind == "next":
            self.api.events.put((request_id, self.timeout, json.dumps(event).encode()))
            kind, payload = self.api.report(self.timeout)
        if kind == "response":
            return Result(payload, failed=False)
        if kind != "error":
            self.stop()
        message = f"RequestId: {request_id} {payload['errorMessage']}"
        return Result(payload | {"errorMessage": message}, failed=True)

    def peak_memory(self):
        """The most memory that the process has held, in bytes (Linux)."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))


class RuntimeApi(ThreadingHTTPServer):
    """The server for one process: takes `events` for it and collects its `reports`, (kind, payload).

    The kinds: next, response, error, init/error, exit, and with SnapStart snapshot, restore/error.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.events = queue.Queue()
        self.reports = queue.Queue()
        self.restored = threading.Event()

    def watch(self, process):
        """Reports the end of the process."""
        message = f"Error: Runtime exited with status {process.wait()}"
        self.reports.put(("exit", {"errorType": "Runtime.ExitError", "errorMessage": message}))

    def report(self, seconds):
        """The next report, or a time-out."""
        try:
            return self.reports.get(timeout=seconds)
        except queue.Empty:
            message = f"Error: Task timed out after {seconds:.2f} seconds"
            return "timeout", {"errorType": "Sandbox.Timedout", "errorMessage": message}

    def handle_error(self, *_):
        """Prints nothing: the process was killed."""

    def close(self):
        self.events.put(None)           # releases the thread that waits for the next event
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """The calls of the Runtime API."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1           # header and body in one packet: a second one would wait 40 ms for the first

    def do_GET(self):
        if self.path == VERSION + "restore/next":
            self.server.reports.put(("snapshot", None))
            self.server.restored.wait()
            return self.answer(200, b"", {})
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
            "Lambda-Runtime-Trace-Id":
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.removeprefix(VERSION)
        if kind not in ("init/error", "restore/error"):     # invocation/<request id>/response or error
            kind = kind.rpartition("/")[2]
        self.server.reports.put((kind, json.loads(body)))
        self.answer(202, b'{"status":"OK"}', {})

    def answer(self, status, body, headers):
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": len(body)} | headers
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Prints nothing: the log is the function's."""
