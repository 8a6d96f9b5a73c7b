"""The endpoint on this machine, without AWS.

    python -m scene.serve

It serves the pre-trained models, or those that --model names. The answers are those of the endpoint in AWS Lambda: both ask
scene.endpoint. A thread for each connection receives, and one thread works: photos are decoded one at a time, so memory stays below a
known limit whatever is sent. Who sends slowly, or less than announced, keeps one thread waiting, and not for long.

Next: main.py
"""

import argparse
import io
import json
import signal
import socketserver
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

from scene import command, endpoint, modelfile
from scene.command import UserError, printable
from scene.endpoint import MAX_REQUEST, Refusal
from scene.predict import PRETRAINED

PATH = "/get_scene"
THREADS = 66                    # at a time: one for each connection, one that accepts them, one that works
ROOM = 18_000_000               # bytes of requests at a time: three of the largest
HEADER_SECONDS = 5              # for a request's header, the pause before it included
BODY_SECONDS = 10               # for its body
GOODBYE_SECONDS = 2             # for what a client still sends after it was refused

HEADERS = {"method_not_allowed": ("Allow", "POST"), "too_busy": ("Retry-After", "1")}
TOO_BUSY = "There are too many requests at once: try again in a second."


class Incoming(io.RawIOBase):
    """What comes in on a connection, until `deadline`. (A socket's own time-out is for each piece: a byte now and then would do.)"""

    def __init__(self, connection):
        self.connection, self.deadline = connection, 0

    def wait(self, seconds):
        self.deadline = time.monotonic() + seconds

    def readable(self):
        return True

    def readinto(self, buffer):
        self.connection.settimeout(max(0.001, self.deadline - time.monotonic()))
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """A connection and its requests, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True          # the body must not wait until the header has arrived

    def setup(self):
        super().setup()
        self.rfile.close()
        self.incoming = Incoming(self.connection)
        self.rfile = io.BufferedReader(self.incoming)

    def handle_one_request(self):
        self.incoming.wait(HEADER_SECONDS)
        super().handle_one_request()

    def do_POST(self):
        try:
            if self.path.partition("?")[0] != PATH:
                raise Refusal("not_found", f"There is nothing here: send a POST to {PATH}.")
            length = self.length()
            with self.server.room_for(length):
                answered = self.server.answer(self.body(length), str(uuid.uuid4()))
            self.reply(*answered)
        except Refusal as refusal:
            self.refuse(refusal)

    def length(self):
        """The length of the body, in bytes, as announced. Raises Refusal."""
        lengths = {length.strip() for length in self.headers.get_all("Content-Length", [])}
        if not lengths or "Transfer-Encoding" in self.headers:
            raise Refusal("length_required", "The request has no Content-Length: send the body in one piece, with its length.")
        length = lengths.pop()
        if lengths or not (length.isascii() and length.isdigit()):
            raise Refusal("bad_request", "The Content-Length must be one whole number.")
        if len(length) > 9 or int(length) > MAX_REQUEST:
            raise endpoint.request_too_large()
        return int(length)

    def body(self, length):
        """The body. Raises Refusal."""
        self.incoming.wait(BODY_SECONDS)
        try:
            body = self.rfile.read(length)
        except TimeoutError as error:
            raise Refusal("request_timeout", f"The body took longer than {BODY_SECONDS} seconds: send it faster.") from error
        if len(body) < length:
            raise Refusal("bad_request", "The body is shorter than its Content-Length: send all of it.")
        return body

    def send_error(self, status, message=None, explain=None):
        """What the standard library refuses, in our words: it knows POST only, from `do_POST`."""
        self.request_version = self.protocol_version        # even to those who sent none
        if status == 501 and self.path.partition("?")[0] == PATH:
            refusal = Refusal("method_not_allowed", "This method is not known here: send a POST.")
        elif status == 501:
            refusal = Refusal("not_found", f"There is nothing here: send a POST to {PATH}.")
        elif status == 414:
            refusal = Refusal("address_too_long", f"The address is too long: send a POST to {PATH}.")
        elif status == 431:
            refusal = Refusal("headers_too_large", "There are too many headers, or one is too long: send fewer.")
        else:
            refusal = Refusal("bad_request", "This is not an HTTP request that can be understood: send HTTP/1.1.")
        self.refuse(refusal)

    def refuse(self, refusal):
        """Answers, says goodbye, and closes the connection: what still comes on it may not be the beginning of a request."""
        self.close_connection = True
        self.reply(*endpoint.answer(refusal, str(uuid.uuid4()), None))
        self.incoming.wait(GOODBYE_SECONDS)     # a client that is still sending would not see the answer if we hung up
        with suppress(OSError):
            while self.rfile.read1(1 << 16):
                pass

    def reply(self, status, answer, entry):
        data = json.dumps(answer).encode()
        self.connection.settimeout(HEADER_SECONDS)
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if entry["code"] in HEADERS:
                self.send_header(*HEADERS[entry["code"]])
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        finally:
            endpoint.log(entry)         # last: a log that nobody reads any more is no reason not to answer

    def version_string(self):
        """The Server header, without Python's version."""
        return "Scene"

    def log_message(self, *_):
        """Not the standard library's log lines: ours say more."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accepts connections. `answer` may be called from any of their threads."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, models):
        self.models, self.worker = models, ThreadPoolExecutor(1)
        self.room, self.lock = ROOM, threading.Lock()
        super().__init__(address, Handler)

    def find_model(self, mode):
        if mode not in self.models:
            raise Refusal("model_missing", f"There is no {mode} model here: start scene.serve with --model and a model of this mode.")
        return self.models[mode]

    def answer(self, body, request_id):
        """endpoint.answer, one request after the other."""
        return self.worker.submit(endpoint.answer, body, request_id, self.find_model).result()

    @contextmanager
    def room_for(self, length):
        """Room for a request of so many bytes. Raises Refusal if there is none."""
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

    def turn_away(self, connection):
        """An answer without a thread: nothing here waits for the client."""
        _, answer, entry = endpoint.answer(Refusal("too_busy", TOO_BUSY), str(uuid.uuid4()), None)
        data = json.dumps(answer)
        connection.setblocking(False)
        with suppress(OSError):
            connection.send(f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
                            f"Retry-After: 1\r\nConnection: close\r\n\r\n{data}".encode())
        self.shutdown_request(connection)
        endpoint.log(entry)

    def handle_error(self, request, client_address):
        """A connection that broke is the client's business; whatever else happened, the next one must not notice."""
        if not isinstance(sys.exception(), OSError):
            endpoint.log({"error": endpoint.describe(sys.exception())})

    def server_close(self):
        super().server_close()
        self.worker.shutdown(wait=False, cancel_futures=True)


def tune_memory():
    """Blocks over 4 MB, as large photos take, go back to the system when they are freed; up to 4 MB of smaller ones stay.

    glibc left to itself raises both limits after the first large photo, and keeps what that took.
    """
    command.tune_malloc(mmap_threshold=4 << 20, trim_threshold=4 << 20, arena_max=1)       # one arena: threads share


def open_models(paths):
    """{mode: Model} of these files. Raises UserError or OSError."""
    models = {}
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        try:
            model = endpoint.load_model(data)
        except modelfile.ModelFileError as error:
            raise modelfile.ModelFileError(f"{printable(path)} is not a usable model: {error}.") from error
        mode = model.classifier.network.mode
        if mode in models:
            raise UserError(f"{printable(path)} is the second model of mode {mode}: give one of each mode.")
        models[mode] = model
    return models


def run(options):
    """Serves until it is stopped."""
    tune_memory()
    models = open_models(options.model)
    try:
        server = Server((options.host, options.port), models)
    except OSError as error:
        raise UserError(f"Cannot listen at {options.host}, port {options.port}: {error.strerror}. Choose others with --host and --port.") \
            from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    url = "http://{}:{}{}".format(*server.server_address, PATH)
    known = "; ".join(f"{mode}: {', '.join(model.classifier.classes)}" for mode, model in models.items())
    print(f"Scene answers at {url} ({known}). Ctrl-C stops it. To try it:\n")
    print(f"""  printf '{{"mode": "{next(iter(models))}", "imageBase64": "%s"}}' "$(base64 < photo.jpg | tr -d '\\n')" | """
          f"curl -sS --data-binary @- {url}\n", flush=True)
    with server:
        server.serve_forever()


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m scene.serve", description="Answer over HTTP which scene a photo shows, as the endpoint in AWS does.",
        epilog="exit codes: 1 something unforeseen, 2 a mistake in the command or in a model, 130 stopped by Ctrl-C, 143 by SIGTERM")
    parser.add_argument("--model", metavar="PATH", nargs="+", default=PRETRAINED.values(),
                        help="model files that scene.main wrote, one for each mode (default: the pre-trained ones)")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", metavar="N", type=port, default=8000, help="which port (default: 8000; 0 for any that is free)")
    return parser.parse_args(arguments)


def port(text):
    """An argparse type."""
    if not 0 <= (number := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(command.run(run, parse(None)))
