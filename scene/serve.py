"""The endpoint on this machine, without AWS.

    python -m scene.serve

It serves the pretrained models, or those that --model names, and answers as the endpoint in AWS Lambda does:
both use answer/endpoint.py. GET /openapi.json describes the interface. Each connection has a thread that
receives, and one thread does all the work. So only one photo is decoded at a time, and memory stays below a
known limit whatever clients send. A client that sends slowly, or less than it announced, blocks only its own
thread, and not for long.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl

from scene import errors, processes  # processes first: it sets the number of BLAS threads
from scene.answer import endpoint, openapi
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.endpoint import MAX_REQUEST, Refusal
from scene.chunked import Malformed, TooLarge, read_chunked
from scene.errors import UserError, listed, printable
from scene.models import DEFAULT_MODE

PATH = openapi.PATH
DOCUMENT = "/openapi.json"
THREADS = 66                    # at most: one for each connection, one that accepts them, one that works
ROOM = 18_000_000               # bytes of all requests at a time: three of the largest
HEADER_SECONDS = 5              # for a request's header, including the pause before it
KEPT_SECONDS = 4                # clients are told that they may pause so long: less, so that none is cut off
BODY_SECONDS = 10               # for its body
GOODBYE_SECONDS = 2             # for reading on after a refusal

HEADERS = {"method_not_allowed": ("Allow", "POST"), "too_busy": ("Retry-After", "1")}
TOO_BUSY = "There are too many requests at once: try again in a second."


class Incoming(io.RawIOBase):
    """A connection's input, until a deadline. A socket's own time-out would restart with every byte."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.deadline = 0.0

    def wait(self, seconds: float) -> None:
        """Sets the deadline to this many seconds from now."""
        self.deadline = time.monotonic() + seconds

    def readable(self):
        return True

    def readinto(self, buffer):
        self.connection.settimeout(max(0.001, self.deadline - time.monotonic()))
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection: answers its requests one after another."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True          # else the body waits for the acknowledgement of the header

    def setup(self):
        super().setup()
        self.rfile.close()
        self.incoming = Incoming(self.connection)
        self.rfile = io.BufferedReader(self.incoming)

    def handle_one_request(self):
        self.incoming.wait(HEADER_SECONDS)
        super().handle_one_request()

    def do_GET(self):
        if self.target()[0] != DOCUMENT:
            self.send_error(501)
            return
        try:
            if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
                raise Refusal("bad_request", "A GET has no body: leave it out.")
            self.send(200, openapi.document("/", endpoint.STATUS))
        except Refusal as refusal:
            self.refuse(refusal)

    def do_POST(self):
        try:
            path, query = self.target()
            if path != PATH:
                raise Refusal("not_found", f"There is nothing here: send a POST to {PATH}.")
            length = self.length()
            kind = self.headers.get("Content-Type", "")
            mode = dict(parse_qsl(query)).get("mode", "")
            with self.server.room_for(MAX_REQUEST if length is None else length):
                body = endpoint.received(self.body(length), kind, mode)
                answered = self.server.answer(body, str(uuid.uuid4()))
            self.reply(*answered)
        except Refusal as refusal:
            self.refuse(refusal)

    def target(self) -> tuple[str, str]:
        """(path, query) of the request's address, which may be a whole URL, as proxies send it."""
        path, _, query = self.path.partition("?")
        if found := re.match(r"https?://[^/]*", path, re.IGNORECASE):
            path = path[found.end():]
        return path, query

    def length(self) -> int | None:
        """The announced length of the body, in bytes, or None if it comes in chunks. Raises Refusal."""
        lengths = {length.strip() for length in self.headers.get_all("Content-Length", [])}
        if "Transfer-Encoding" in self.headers:
            if lengths or self.headers.get_all("Transfer-Encoding") not in (["chunked"], ["Chunked"]):
                raise Refusal("bad_request", "The body must have a Content-Length, or be chunked and not "
                                             "compressed: send it in one of these ways.")
            return None
        if not lengths:
            raise Refusal("length_required",
                          "The request has no Content-Length: send the body in one piece, with its length.")
        length = lengths.pop()
        if lengths or not (length.isascii() and length.isdigit()):
            raise Refusal("bad_request", "The Content-Length must be one whole number.")
        if len(length) > 9 or int(length) > MAX_REQUEST:
            raise endpoint.request_too_large()
        return int(length)

    def body(self, length: int | None) -> bytes:
        """The body. Raises Refusal."""
        self.incoming.wait(BODY_SECONDS)
        try:
            body = read_chunked(self.rfile, MAX_REQUEST) if length is None else self.rfile.read(length)
        except TooLarge as error:
            raise endpoint.request_too_large() from error
        except Malformed as error:
            raise Refusal("bad_request", "The chunks of the body are malformed, cut off or too many: send "
                                         "all of it, in larger chunks.") from error
        except TimeoutError as error:
            raise Refusal("request_timeout",
                          f"The body took longer than {BODY_SECONDS} seconds: send it faster.") from error
        if len(body) < (length or 0):
            raise Refusal("bad_request", "The body is shorter than its Content-Length: send all of it.")
        return body

    def send_error(self, status, message=None, explain=None):
        """Called by the standard library when it refuses a request: any but a POST, or a malformed one."""
        self.request_version = self.protocol_version        # even if the request named none
        if status == 501 and self.target()[0] == PATH:
            refusal = Refusal("method_not_allowed", "This method is not supported: send a POST.")
        elif status == 501:
            refusal = Refusal("not_found", f"There is nothing here: send a POST to {PATH}.")
        elif status == 414:
            refusal = Refusal("address_too_long", f"The address is too long: send a POST to {PATH}.")
        elif status == 431:
            refusal = Refusal("headers_too_large",
                              "There are too many headers, or one is too long: send fewer.")
        else:
            refusal = Refusal("bad_request", "This is not a valid HTTP request: send HTTP/1.1.")
        self.refuse(refusal)

    def refuse(self, refusal: Refusal) -> None:
        """Answers and closes the connection: the next bytes on it may not be the start of a request."""
        self.close_connection = True
        self.reply(*endpoint.answer(refusal, str(uuid.uuid4()), None))
        self.incoming.wait(GOODBYE_SECONDS)     # a client still sending would lose the answer if we hung up
        with suppress(OSError):
            while self.rfile.read1(1 << 16):
                pass

    def reply(self, status: int, answer: dict, entry: dict) -> None:
        """Sends an answer and logs its entry."""
        try:
            self.send(status, answer, HEADERS.get(entry["code"]))
        finally:
            endpoint.log(entry)         # last: a broken log must not prevent the answer

    def send(self, status: int, content: dict, header: tuple[str, str] | None = None) -> None:
        """Sends JSON, with one more header."""
        data = json.dumps(content).encode()
        self.connection.settimeout(HEADER_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if header:
            self.send_header(*header)
        if self.close_connection:
            self.send_header("Connection", "close")
        else:
            self.send_header("Keep-Alive", f"timeout={KEPT_SECONDS}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def version_string(self):
        """The Server header, without Python's version."""
        return "Scene"

    def log_message(self, *_):
        """Silences the standard library's log lines: ours say more."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts connections. Any of their threads may call `answer`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], models: dict[str, Classifier]):
        self.models = models
        self.worker = ThreadPoolExecutor(1)
        self.room = ROOM
        self.lock = threading.Lock()
        host, port = address
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        families = [family for family, *_ in found]
        self.address_family = min(families, key=lambda family: family != socket.AF_INET)    # IPv4 if both
        super().__init__(address, Handler)

    def find_model(self, mode: str) -> Classifier:
        if mode not in self.models:
            raise Refusal("model_missing", f"There is no {mode} model here: start scene.serve with --model "
                          "and a model of this mode.")
        return self.models[mode]

    def answer(self, body: bytes | endpoint.Photo, request_id: str) -> tuple[int, dict, dict]:
        """Calls endpoint.answer, for one request at a time."""
        return self.worker.submit(endpoint.answer, body, request_id, self.find_model).result()

    @contextmanager
    def room_for(self, length: int) -> Iterator[None]:
        """Reserves memory for a request of this many bytes. Raises Refusal if there is too little."""
        with self.lock:
            if length > self.room:
                raise Refusal("too_busy", TOO_BUSY)
            self.room -= length
        try:
            yield
        finally:
            with self.lock:
                self.room += length

    def process_request(self, request, client_address):
        if threading.active_count() < THREADS:
            super().process_request(request, client_address)
        else:
            self.turn_away(request)

    def turn_away(self, connection: socket.socket) -> None:
        """Refuses a connection for which there is no thread, without waiting for the client."""
        _, answer, entry = endpoint.answer(Refusal("too_busy", TOO_BUSY), str(uuid.uuid4()), None)
        data = json.dumps(answer)
        connection.setblocking(False)
        with suppress(OSError):
            connection.send("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                            f"Content-Length: {len(data)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
                            f"{data}".encode())
        self.shutdown_request(connection)
        endpoint.log(entry)

    def handle_error(self, request, client_address):
        """Logs an unexpected failure, unless the connection broke. The server goes on."""
        if not isinstance(sys.exception(), OSError):
            endpoint.log({"error": endpoint.describe(sys.exception())})

    def server_close(self):
        super().server_close()
        self.worker.shutdown(wait=False, cancel_futures=True)


def tune_memory() -> None:
    """Makes glibc return freed blocks over 4 MB, those of large photos, and keep up to 4 MB of smaller ones.

    By default it raises both limits after the first large photo and keeps that photo's memory.
    """
    processes.tune_malloc(mmap_threshold=4 << 20, trim_threshold=4 << 20, arena_max=1)  # for all threads


def open_models(paths: Iterable[str]) -> dict[str, Classifier]:
    """{mode: Classifier} of the model files. Raises UserError or OSError."""
    models = {}
    for path in paths:
        model = Classifier.open(path)
        if model.mode in models:
            raise UserError(f"{printable(path)} is the second model of mode {model.mode}: "
                            "give one for each mode.")
        models[model.mode] = model
    return models


def run(options):
    """Serves until a signal stops it."""
    tune_memory()
    models = open_models(options.model)
    try:
        server = Server((options.host, options.port), models)
    except OSError as error:
        raise UserError(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}. "
                        "Choose others with --host and --port.") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    host, port, *_ = server.server_address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
    known = "; ".join(f"{mode}: {listed(model.classes)}" for mode, model in models.items())
    print(f"Scene answers at {url} ({known}). Ctrl-C stops it. To try it:\n")
    photo = "\"$(base64 < photo.jpg | tr -d '\\n')\""
    mode = DEFAULT_MODE if DEFAULT_MODE in models else next(iter(models))
    print(f"""  printf '{{"mode": "{mode}", "imageBase64": "%s"}}' {photo} | """
          f"curl -sS --data-binary @- {url}\n", flush=True)
    with server:
        server.serve_forever()


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.serve",
        description="Serve models over HTTP, with the requests and answers of the endpoint on AWS.",
        epilog="exit codes: 1 an unexpected failure, 2 a mistake in the command or in a model, "
               "130 stopped by Ctrl-C, 143 by SIGTERM")
    add = parser.add_argument
    add("--model", metavar="PATH", nargs="+", default=PRETRAINED.values(),
        help="model files written by scene.main, one for each mode (default: the pretrained ones)")
    add("--host", metavar="ADDRESS", default="127.0.0.1",
        help="the address to listen on (default: 127.0.0.1, for this machine only)")
    add("--port", metavar="N", type=port, default=8000, help="the port (default: 8000, 0 for a free one)")
    return parser.parse_args(arguments)


def port(text: str) -> int:
    """An argparse type: a port number."""
    if not 0 <= (number := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
