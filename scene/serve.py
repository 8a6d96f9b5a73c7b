"""The endpoint on this machine, without AWS, and a page to try it.

    python -m scene.serve

It serves the pretrained models, or those that --model names, and answers as the endpoint in AWS Lambda does:
both use answer/endpoint.py. The page is at /, GET /openapi.json describes the interface, and GET /health says
that all is well. Each connection has a thread that receives, and one thread does all the work. So only one
photo is decoded at a time, and memory stays below a known limit whatever clients send. A client that sends
slowly, or less than it announced, blocks only its own thread, and not for long.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import select
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

from scene import browsers, errors, memory, processes  # noqa: F401  before NumPy: processes sets BLAS threads
from scene.answer import endpoint, openapi
from scene.answer.classifier import PRETRAINED, Classifier
from scene.answer.endpoint import FOR_OTHERS, FOR_OURSELVES, Refusal
from scene.chunked import Malformed, TooLarge, read_chunked
from scene.errors import UserError, listed, printable
from scene.models import DEFAULT_MODE
from scene.show import lab, page
from scene.signals import Stopped, postponed

PATH = openapi.PATH
THREADS = 66                    # at most: one for each connection, one that accepts them, one that works
ROOM = 3                        # requests of the largest size in memory at a time, or more smaller ones
HEADER_SECONDS = 5              # for a request's header, including the pause before it
KEPT_SECONDS = 4                # clients are told that they may pause so long: less, so that none is cut off
BODY_SECONDS = 10               # for its body
GOODBYE_SECONDS = 2             # for reading on after a refusal
STOP_SECONDS = 9                # for the requests in progress when a signal stops the server


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
        self.headers = {}           # until they are read
        self.server.busy[self.connection] = False
        super().handle_one_request()

    def parse_request(self):
        self.server.busy[self.connection] = True
        return super().parse_request()

    def do_GET(self):
        try:
            self.admit()
            document = self.server.documents.get(self.target()[0])
            if not document:
                raise self.no_such()
            if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
                raise Refusal("bad_request", "A GET has no body: leave it out.")
            self.send(200, document.data, document.headers)
        except Refusal as refusal:
            self.refuse(refusal)

    do_HEAD = do_GET

    def do_OPTIONS(self):
        """Tells a browser that a page of the origin of --cors may send requests to the endpoint."""
        try:
            self.admit()
            if not self.may_be_read() or self.target()[0] != PATH:
                raise self.no_such()
            self.send(204, b"", {"Access-Control-Allow-Methods": "POST",
                                 "Access-Control-Allow-Headers": "Content-Type",
                                 "Access-Control-Max-Age": "600"})
        except Refusal as refusal:
            self.refuse(refusal)

    def do_POST(self):
        try:
            self.admit()
            path, query = self.target()
            if path not in (PATH, *lab.FIELDS):
                raise self.no_such()
            kind = self.headers.get("Content-Type", "")
            if path != PATH:
                self.admit_to_the_lab(kind)
            length = self.length()
            mode = mode_of(query)
            with self.server.room_for(length):
                body = self.body(length)
                if path == PATH:
                    answered = self.server.answer(endpoint.received(body, kind, mode), str(uuid.uuid4()))
                else:
                    answered = self.server.lab.answer(path, body, str(uuid.uuid4()))
            self.reply(*answered)
        except Refusal as refusal:
            self.refuse(refusal)

    def admit(self) -> None:
        """Refuses what a browser sends for a page that must not. Raises Refusal."""
        host = self.headers.get("Host")
        names = self.server.listening, self.server.server_address[0]
        if host is not None and not any(browsers.is_ours(host, name) for name in names):
            raise Refusal("wrong_host", "The Host header names another machine: use localhost, or start "
                          "scene.serve with --host and that name.")
        origin = self.headers.get("Origin")
        if origin is not None and self.target()[0] != PATH and not self.may_be_read() \
                and not browsers.is_own_page(origin, host or ""):
            raise Refusal("wrong_origin", "Pages of other sites may not ask for this: open the server's own "
                          "page.")

    def admit_to_the_lab(self, kind: str) -> None:
        """Only our own page on this machine may make the server work so much. Raises Refusal."""
        if not browsers.is_loopback(self.client_address[0]):
            raise Refusal("not_local", "Only the machine that runs this server can look inside: open the "
                          "page there, on localhost.")
        if not browsers.is_own_page(self.headers.get("Origin", ""), self.headers.get("Host", "")):
            raise Refusal("wrong_origin", "Only the server's own page may ask for this: open it.")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise Refusal("wrong_content_type", "The body must be JSON: send it with Content-Type "
                          "application/json.")

    def may_be_read(self) -> bool:
        """Whether the request comes from a page of the origin of --cors, which may read the answer."""
        return self.server.cors is not None and self.headers.get("Origin") == self.server.cors

    def methods(self) -> str:
        """The methods that the request's address can be asked with, or "" if there is nothing at it."""
        path = self.target()[0]
        if path in self.server.documents:
            return "GET, HEAD"
        return "POST" if path in (PATH, *lab.FIELDS) else ""

    def no_such(self) -> Refusal:
        """The refusal of a request for which there is no answer at its address."""
        if methods := self.methods():
            first = methods.partition(",")[0]
            return Refusal("method_not_allowed", f"This method is not supported: send a {first}.")
        return Refusal("not_found", f"There is nothing here: send a POST to {PATH}.")

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
        if len(length) > 9 or int(length) > self.server.terms.max_request:
            raise endpoint.request_too_large(self.server.terms)
        return int(length)

    def body(self, length: int | None) -> bytes:
        """The body. Raises Refusal."""
        self.incoming.wait(BODY_SECONDS)
        try:
            body = self.rfile.read(length) if length is not None else \
                read_chunked(self.rfile, self.server.terms.max_request)
        except TooLarge as error:
            raise endpoint.request_too_large(self.server.terms) from error
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
        """Called by the standard library when it refuses a request: an unknown method, or a malformed one."""
        self.request_version = self.protocol_version        # even if the request named none
        if status == 501:
            refusal = self.no_such()
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
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        if entry["code"] == "method_not_allowed":
            headers["Allow"] = self.methods()
        elif entry["code"] == "too_busy":
            headers["Retry-After"] = "1"
        if entry["code"] is None:
            headers["Server-Timing"] = ", ".join(f"{part};dur={value}"
                                                 for part, value in entry["milliseconds"].items())
        try:
            self.send(status, json.dumps(answer).encode(), headers)
        finally:
            endpoint.log(entry)         # last: a broken log must not prevent the answer

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Sends a response."""
        self.connection.settimeout(HEADER_SECONDS)
        self.close_connection = self.close_connection or self.server.stopping
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.server.cors is not None:
            self.send_header("Vary", "Origin")
        if self.may_be_read():
            self.send_header("Access-Control-Allow-Origin", self.server.cors)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
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
    timeout = 0.2                   # seconds that a signal may have to wait

    def __init__(self, address: tuple[str, int], models: dict[str, Classifier], laboratory: lab.Lab,
                 cors: str | None = None):
        """models: at least one, by mode. cors: the origin whose pages may read the answers."""
        host, port = address
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found.sort(key=lambda each: each[0] != socket.AF_INET)      # IPv4 if there are both
        self.address_family = found[0][0]
        self.listening = host
        self.cors = cors
        self.models = models
        self.lab = laboratory
        ours = browsers.is_loopback(found[0][4][0])                 # nobody else can reach it
        mode = DEFAULT_MODE if DEFAULT_MODE in models else next(iter(models))
        self.terms = (FOR_OURSELVES if ours else FOR_OTHERS)._replace(mode=mode)
        self.documents = page.documents(models, self.terms)
        self.worker = ThreadPoolExecutor(1)
        self.room = int(ROOM * self.terms.max_request)
        self.lock = threading.Lock()
        self.busy = {}              # each connection, and whether a request is in progress on it
        self.stopping = False
        super().__init__(address, Handler)

    def find_model(self, mode: str) -> Classifier:
        if mode not in self.models:
            raise Refusal("model_missing", f"There is no {mode} model here: start scene.serve with --model "
                          "and a model of this mode.")
        return self.models[mode]

    def answer(self, body: bytes | endpoint.Photo, request_id: str) -> tuple[int, dict, dict]:
        """Calls endpoint.answer, for one request at a time."""
        work = self.worker.submit(endpoint.answer, body, request_id, self.find_model, self.terms)
        return work.result()

    @contextmanager
    def room_for(self, length: int | None) -> Iterator[None]:
        """Reserves memory for a request of this many bytes, or an unknown number. Raises Refusal."""
        length = self.terms.max_request if length is None else length
        with self.lock:
            if length > self.room:
                raise Refusal("too_busy", endpoint.TOO_BUSY)
            self.room -= length
        try:
            yield
        finally:
            with self.lock:
                self.room += length

    def process_request(self, request, client_address):
        if threading.active_count() < THREADS:
            self.busy[request] = False
            super().process_request(request, client_address)
        else:
            self.turn_away(request)

    def turn_away(self, connection: socket.socket) -> None:
        """Refuses a connection for which there is no thread, without waiting for the client."""
        _, answer, entry = endpoint.answer(Refusal("too_busy", endpoint.TOO_BUSY), str(uuid.uuid4()), None)
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

    def shutdown_request(self, request):
        self.busy.pop(request, None)
        super().shutdown_request(request)

    def finish(self) -> None:
        """Answers the requests that have begun to arrive, and no others. A second signal ends this."""
        self.stopping = True
        until = time.monotonic() + STOP_SECONDS
        while has_data([self.socket]) and time.monotonic() < until:
            self.handle_request()               # who has connected already
        self.socket.close()
        while time.monotonic() < until:
            connections = list(self.busy.items())
            if not any(busy for _, busy in connections) and not has_data(list(dict(connections))):
                break
            time.sleep(0.02)

    def server_close(self):
        super().server_close()
        self.worker.shutdown(wait=False, cancel_futures=True)
        self.lab.close()


def has_data(sockets: list[socket.socket]) -> bool:
    """Whether one of these sockets has data to read, or a connection to accept."""
    return bool(select.select([each for each in sockets if each.fileno() >= 0], [], [], 0)[0])


def mode_of(query: str) -> str:
    """The mode in an address's query, "" if it has none. Raises Refusal."""
    found = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "mode"]
    return endpoint.check_mode(found[0] if len(found) == 1 else "") if found else ""


def open_models(paths: Iterable[str]) -> tuple[dict[str, Classifier], dict[str, str]]:
    """{mode: Classifier} and {mode: path} of the model files. Raises UserError or OSError."""
    models = {}
    places = {}
    for path in paths:
        model = Classifier.open(path)
        if model.mode in models:
            raise UserError(f"{printable(path)} is the second model of mode {model.mode}: "
                            "give one for each mode.")
        models[model.mode] = model
        places[model.mode] = path
    return models, places


def run(options):
    """Serves until a signal stops it."""
    memory.return_freed()
    models, places = open_models(options.model)
    try:
        server = Server((options.host, options.port), models, lab.Lab(places), options.cors)
    except OSError as error:
        raise UserError(f"Cannot listen on {options.host}, port {options.port}: {error.strerror}. "
                        "Choose others with --host and --port.") from error
    host, port, *_ = server.server_address
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    known = "; ".join(f"{mode}: {listed(model.classes, 10)}" for mode, model in models.items())
    print(f"Scene answers at {url}{PATH} ({known}), and {url}/ is a page to try it. Ctrl-C stops it. "
          "Or without the page:\n")
    photo = "\"$(base64 < photo.jpg | tr -d '\\n')\""
    print(f"""  printf '{{"mode": "{server.terms.mode}", "imageBase64": "%s"}}' {photo} | """
          f"curl -sS --data-binary @- {url}{PATH}\n", flush=True)
    with server:
        try:
            with postponed() as signals:        # an exception in the middle could lose a connection
                while not signals:
                    server.handle_request()
                server.finish()
        except Stopped as stopped:
            if stopped.number != signal.SIGTERM:
                raise
            return stopped.exit_code            # without words: it is how services are stopped
    return 0


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
    add("--cors", metavar="ORIGIN", type=origin,
        help="the origin whose web pages may read the answers, such as https://example.com (default: none)")
    add("--port", metavar="N", type=port, default=8000, help="the port (default: 8000, 0 for a free one)")
    return parser.parse_args(arguments)


def origin(text: str) -> str:
    """An argparse type: the origin of web pages."""
    if not browsers.ORIGIN.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{printable(text)} is not an origin such as https://example.com")
    return text.lower()


def port(text: str) -> int:
    """An argparse type: a port number."""
    if not 0 <= (number := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
