"""scene/serve.py: a real server process, real connections, well-behaved clients and others."""

import argparse
import base64
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openapi_spec_validator
import pytest
from PIL import Image

import scene.serve
from scene.answer import endpoint, openapi
from scene.answer.classifier import Classifier
from scene.models import MODES
from tests import hostile
from tests.asking import GOOD, OCEAN, Server, body, model_files, receive, request


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """{mode: path of a model file}, the CNN's first."""
    folder = tmp_path_factory.mktemp("models")
    modes = sorted(model_files(folder), key=lambda mode: mode != "CNN")
    return {mode: folder / f"model_{mode}" for mode in modes}


@pytest.fixture(scope="module")
def server(paths, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), "--model", *paths.values())
    yield server
    assert server.stop() == 143
    assert server.errors.read_text() == ""


@pytest.fixture
def strict(paths, tmp_path):
    """strict(NAME=value) -> a Server of the CNN with other limits."""
    servers = []

    def start(**constants):
        servers.append(Server(tmp_path, "--model", paths["CNN"], **constants))
        return servers[-1]

    yield start
    for server in servers:
        assert server.stop() == 143
        assert server.errors.read_text() == ""


# Answers


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_the_classifiers(mode, server, paths):
    status, answer = server.ask(body(mode))
    expected = Classifier.open(paths[mode]).classify(OCEAN)
    assert (status, answer["mode"], answer["scene"]) == (200, mode, next(iter(expected)))
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_photo_as_the_body(mode, server):
    data = request("Content-Type: image/jpeg\r\n", OCEAN)
    data = data.replace(b"/get_scene", f"/get_scene?mode={mode}".encode())
    status, _, answer, _ = server.send(data + b"GET /end HTTP/1.1\r\n\r\n")
    assert status == 200 and answer["probabilities"] == server.ask(body(mode))[1]["probabilities"]


def test_the_better_network_answers_if_none_is_named(server):
    expected = server.ask(body("CNN"))[1]["probabilities"]
    unnamed = request(data=body().replace(b'"mode": "CNN",', b""))
    for data in request("Content-Type: image/jpeg\r\n", OCEAN), unnamed:
        status, _, answer, _ = server.send(data + b"x\r\n\r\n")
        assert (status, answer["mode"], answer["probabilities"]) == (200, "CNN", expected)


@pytest.mark.parametrize("query", ["mode=", "mode=RNN", "mode=CNN&mode=CNN", "mode=%00", "mode=C%20NN"])
@pytest.mark.parametrize("kind", ["image/jpeg", "application/json"])
def test_a_query_without_a_proper_mode(query, kind, server):
    data = request(f"Content-Type: {kind}\r\n", OCEAN if "image" in kind else GOOD)
    status, _, answer, _ = server.send(data.replace(b"/get_scene", f"/get_scene?{query}".encode()))
    assert (status, answer["error"]["code"]) == (400, "bad_mode")


def test_the_only_network_answers_if_none_is_named(paths, tmp_path):
    server = Server(tmp_path, "--model", paths["FCNN"])
    assert server.ask(body().replace(b'"mode": "CNN",', b""))[1]["mode"] == "FCNN"
    assert server.stop() == 143


def test_ones_own_machine_takes_what_lambda_does_not(server):
    """WebP, and a request of 10 MB with a photo of 30 megapixels."""
    webp, png = io.BytesIO(), io.BytesIO()
    image = Image.open(io.BytesIO(OCEAN))
    image.save(webp, "WebP")
    assert server.ask(body(data=webp.getvalue()))[0] == 200
    Image.new("L", (6000, 5000)).save(png, "PNG")
    padded = png.getvalue()[:-12] + hostile.chunk(b"abCd", bytes(7_000_000)) + png.getvalue()[-12:]
    assert server.ask(body(data=padded))[0] == 200
    assert len(body(data=padded)) > endpoint.FOR_OTHERS.max_request
    status, answer = server.ask(body(data=hostile.png(hostile.header(10_000, 6500), hostile.packed(1000))))
    assert (status, answer["error"]["code"]) == (413, "photo_too_large")
    assert "64 million" in answer["error"]["message"]


def test_who_listens_for_others_has_the_limits_of_lambda(paths, tmp_path):
    server = Server(tmp_path, "--model", paths["CNN"], "--host", "0.0.0.0")
    status, _, answer, _ = server.send(request(length=6_000_001))
    assert (status, answer["error"]["code"]) == (413, "photo_too_large")
    assert "4.4 MB" in answer["error"]["message"]
    webp = io.BytesIO()
    Image.open(io.BytesIO(OCEAN)).save(webp, "WebP")
    assert server.ask(body(data=webp.getvalue()))[1]["error"]["code"] == "not_a_photo"
    assert server.get("/health")[2]["limits"] == {
        "formats": ["image/jpeg", "image/png"], "bytes": 4_400_000, "pixels": 12_600_000}
    assert server.stop() == 143


def test_it_describes_itself(server):
    """In a valid document, which has each of its statuses, and the schemas of AWS, except for the mode."""
    status, _, document = server.get("/openapi.json")
    assert status == 200
    openapi_spec_validator.validate(document)
    post = document["paths"]["/get_scene"]["post"]
    statuses = {endpoint.STATUS[code] for code in endpoint.STATUS if code not in endpoint.PAGE_ONLY}
    assert {int(status) for status in post["responses"]} == {200, *statuses}
    aws = openapi.document("https://x/live", openapi.of_the_gateway(), openapi.SIGNED)
    openapi_spec_validator.validate(aws)
    theirs, ours = aws["components"]["schemas"], document["components"]["schemas"]
    assert ours["SceneRequest"].pop("required") == ["imageBase64"]
    ours["SceneRequest"]["required"] = ["mode", "imageBase64"]
    assert theirs == {name: schema for name, schema in ours.items() if name != "Health"}
    theirs = aws["paths"]["/get_scene"]["post"]
    assert all(theirs[part] == post[part] for part in ("parameters", "summary"))
    assert theirs["responses"]["200"] == post["responses"]["200"]
    assert list(post["requestBody"]["content"])[:3] == list(theirs["requestBody"]["content"])
    assert list(post["requestBody"]["content"])[3:] == ["image/webp"]


def test_it_says_that_it_is_well(server, paths):
    status, headers, health = server.get("/health")
    assert (status, headers["Content-Type"], health["status"]) == (200, "application/json", "ok")
    jsonschema.validate(health, openapi.HEALTH)
    assert list(health["models"]) == ["CNN", "FCNN"]            # the one that answers if none is named
    for mode, path in paths.items():
        model = Classifier.open(path)
        assert health["models"][mode] == {"model": model.name, "classes": model.classes}


def test_the_page_and_its_files(server):
    """Each with a policy that allows nothing from elsewhere, and none with a cookie."""
    for path, kind in ("/", "html"), ("/style.css", "css"), ("/page.css", "css"), ("/page.js", "javascript"):
        status, headers, text = server.get(path)
        assert (status, headers["Content-Type"]) == (200, f"text/{kind}; charset=utf-8")
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert "Set-Cookie" not in headers and headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
        assert server.get(path, method="HEAD")[1]["Content-Length"] == str(len(text.encode()))


def test_an_answer_says_how_long_it_took(server):
    _, headers, _, _ = server.send(request("Connection: close\r\n"))
    assert re.fullmatch(r"(\w+;dur=[\d.]+, ){3}total;dur=[\d.]+", headers["Server-Timing"])


# Browsers, and the pages that they show


@pytest.mark.parametrize("host, good", [
    ("localhost", True), ("LOCALHOST:1234", True), ("127.0.0.1:80", True), ("[::1]:80", True),
    ("evil.example", False), ("localhost.evil.example:80", False), ("10.0.0.1", False), ("", False)])
def test_a_name_that_is_not_ours_gets_no_answer(host, good, server):
    """Another site can give its own name our address, and its pages are then of this origin."""
    status, _, answer = server.get("/health", Host=host)
    assert status == (200 if good else 421) and (good or answer["error"]["code"] == "wrong_host")
    data = request("Connection: close\r\n").replace(b"Host: localhost", f"Host: {host}".encode())
    assert server.send(data)[0] == status


def test_pages_of_other_sites_may_send_photos_and_read_nothing(server):
    for path in "/", "/health", "/openapi.json", "/page.js":
        for origin in "http://evil.example", "null", f"http://localhost:{server.port + 1}":
            status, headers, answer = server.get(path, Origin=origin)
            assert (status, answer["error"]["code"]) == (403, "wrong_origin")
            assert "Access-Control-Allow-Origin" not in headers
        own = f"localhost:{server.port}"
        assert server.get(path, Origin=f"http://{own}", Host=own)[0] == 200
    status, headers, _, _ = server.send(request("Origin: http://evil.example\r\nConnection: close\r\n"))
    assert status == 200 and "Access-Control-Allow-Origin" not in headers
    assert server.get("/get_scene", "OPTIONS", Origin="http://evil.example")[0] == 405


def test_only_our_own_page_may_make_it_work_hard(server):
    own = f"localhost:{server.port}"
    json_type = {"Content-Type": "application/json"}
    good = json_type | {"Host": own, "Origin": f"http://{own}"}
    refused = [({}, 403, "wrong_origin"), (json_type, 403, "wrong_origin"),
               (good | {"Origin": "http://evil.example"}, 403, "wrong_origin"),
               (good | {"Origin": f"https://{own}"}, 403, "wrong_origin"),
               (good | {"Host": "evil.example"}, 421, "wrong_host"),
               (good | {"Content-Type": "text/plain"}, 415, "wrong_content_type"),
               (good | {"Content-Length": "40100001"}, 413, "photo_too_large"),
               (good | {"Content-Length": "0"}, 400, "not_json")]
    for headers, status, code in refused:
        for task in ("/inside", "/step", "/check") if code == "wrong_origin" else ["/inside"]:
            found, _, answer = server.get(task, "POST", **headers)
            assert (found, answer["error"]["code"]) == (status, code)
    status, headers, answer = server.get("/inside", Host=own)
    assert (status, headers["Allow"]) == (405, "POST")


def test_only_this_machine_may_make_it_work_hard(strict):
    server = strict(**{"browsers.is_loopback": "lambda address: False"})
    own = f"localhost:{server.port}"
    status, _, answer = server.get("/step", "POST", Host=own, Origin=f"http://{own}")
    assert (status, answer["error"]["code"]) == (403, "not_local")


def test_pages_of_the_origin_of_cors_may_read_answers(paths, tmp_path):
    origin = "https://pages.example:444"
    server = Server(tmp_path, "--model", paths["FCNN"], "--cors", origin)
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, headers, _ = server.get("/get_scene", "OPTIONS", Origin=origin, **asks)
    assert status == 204 and headers["Access-Control-Allow-Origin"] == origin and headers["Vary"] == "Origin"
    assert headers["Access-Control-Allow-Methods"] == "POST" and "Content-Length" not in headers
    assert headers["Access-Control-Allow-Headers"] == "Content-Type"
    for path in "/health", "/openapi.json":
        assert server.get(path, Origin=origin)[1]["Access-Control-Allow-Origin"] == origin
    for other in origin.replace("444", "445"), origin.replace("https", "http"), f"{origin}.evil.example":
        status, headers, _ = server.get("/get_scene", "OPTIONS", Origin=other, **asks)
        assert status == 405 and "Access-Control-Allow-Origin" not in headers
        _, headers, _, _ = server.send(request(f"Origin: {other}\r\nConnection: close\r\n"))
        assert "Access-Control-Allow-Origin" not in headers and headers["Vary"] == "Origin"
    for data in request(), request(data=b"{}"):
        data = data.replace(b"\r\n\r\n", f"\r\nOrigin: {origin}\r\n\r\n".encode(), 1)
        _, headers, _, _ = server.send(data + b"x\r\n\r\n")
        assert headers["Access-Control-Allow-Origin"] == origin         # refusals can be read, too
    assert server.stop() == 143


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("base64"), reason="needs curl and base64")
def test_the_line_to_paste_works(server, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(OCEAN)
    line = next(line for line in server.greeting.splitlines() if "curl" in line)
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout)["scene"] == server.ask()[1]["scene"] and done.stderr == ""


def test_a_connection_serves_many_requests_even_after_a_refusal(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.connect()
    ours = connection.sock.getsockname()
    for data, expected in [(GOOD, 200), (b"{}", 400), (GOOD, 200), (body(data=bytes(9)), 400), (GOOD, 200)]:
        assert server.ask(data, connection=connection)[0] == expected
        assert connection.sock.getsockname() == ours
    connection.close()


def test_two_requests_at_once_on_a_connection(server):
    status, _, answer, rest = server.send(request() + request("Connection: close\r\n", b"[]"))
    assert status == 200 and answer["mode"] == "CNN"
    assert rest.startswith(b"HTTP/1.1 400 ") and b'"not_an_object"' in rest


def test_many_at_once(server):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: server.ask(), range(60)))
    assert {status for status, _ in answers} == {200}
    assert len({answer["requestId"] for _, answer in answers}) == 60


def test_a_client_that_asks_before_it_sends(server):
    with server.connect() as connection:
        connection.sendall(request("Expect: 100-continue\r\nConnection: close\r\n", b"", len(GOOD)))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert receive(connection)[0] == 200


def test_a_line_of_log_for_each_request(server):
    before = len(server.lines())
    _, good = server.ask()
    _, bad = server.ask(b"{}", path="/elsewhere")
    server.until(lambda: len(server.lines()) == before + 2)
    first, second = server.lines()[before:]
    assert (first["requestId"], first["status"], first["scene"]) == (good["requestId"], 200, good["scene"])
    assert (second["requestId"], second["code"]) == (bad["requestId"], "not_found")
    assert base64.b64encode(OCEAN).decode()[:40] not in server.log.read_text()


def chunked(data, encoding="chunked"):
    """The bytes of a POST whose body is these chunks."""
    head = f"POST /get_scene HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + data


@pytest.mark.parametrize("sizes, trailers", [
    ([len(GOOD)], b""), ([1, 2, 3], b""), ([1000] * 3, b"X-Checksum: 5\r\nY: z\r\n"), ([5000], b"")])
def test_a_body_in_chunks(sizes, trailers, server):
    """On a connection that goes on: the next request begins where the chunks end."""
    data = b""
    rest = GOOD
    for size in [*sizes, len(GOOD)]:
        piece, rest = rest[:size], rest[size:]
        if piece:
            data += b"%X;name=value\r\n%b\r\n" % (len(piece), piece)
    data += b"0\r\n" + trailers + b"\r\n"
    status, _, answer, rest = server.send(chunked(data) + request("Connection: close\r\n", b"[]"))
    assert status == 200 and answer["probabilities"] == server.ask()[1]["probabilities"]
    assert rest.startswith(b"HTTP/1.1 400 ") and b'"not_an_object"' in rest


def test_slow_chunks(hasty):
    with hasty.connect() as connection:
        connection.sendall(chunked(b"5\r\nhe"))
        assert receive(connection)[0] == 408
    assert hasty.ask()[0] == 200


@pytest.mark.parametrize("start", ["http://127.0.0.1:8000", "HTTP://here", "https://proxy.example:1"])
def test_a_whole_address(start, server):
    photo = request("Content-Type: image/png\r\n", OCEAN)
    for data, path in (request(), "/get_scene"), (photo, "/get_scene?mode=cnn"):
        data = data.replace(b"/get_scene", f"{start}{path}".encode(), 1) + b"GET /end HTTP/1.1\r\n\r\n"
        status, _, answer, _ = server.send(data)
        assert status == 200 and answer["mode"] == "CNN"


def test_it_says_how_long_it_waits_for_the_next_request(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/get_scene", GOOD)
    response = connection.getresponse()
    response.read()
    assert response.headers["Keep-Alive"] == "timeout=4" and scene.serve.HEADER_SECONDS > 4
    connection.request("POST", "/", GOOD)
    assert "Keep-Alive" not in connection.getresponse().headers
    connection.close()


@pytest.mark.parametrize("host, shown", [("::1", "[::1]"), ("localhost", "127.0.0.1"), ("", "0.0.0.0")])
def test_addresses_to_listen_on(host, shown, paths, tmp_path):
    server = Server(tmp_path, "--model", paths["FCNN"], paths["CNN"], "--host", host)
    assert f"http://{shown}:{server.port}/get_scene" in server.greeting
    assert '{"mode": "CNN"' in server.greeting              # the better model, whatever the order
    with socket.create_connection(("::1" if ":" in host else "127.0.0.1", server.port)) as connection:
        connection.sendall(request("Connection: close\r\n"))
        assert receive(connection)[0] == 200
    assert server.stop() == 143


# Refusals


CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
REFUSED = {
    "another path": (b"POST /elsewhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "not_found"),
    "another path and method": (b"GET /favicon.ico HTTP/1.1\r\n\r\n", 404, "not_found"),
    "a whole address of another path": (
        b"POST http://here/elsewhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404, "not_found"),
    "a whole address without a path": (
        b"GET http://here HTTP/1.1\r\n\r\n", 404, "not_found"),
    "GET of a whole address": (b"GET http://here/get_scene HTTP/1.1\r\n\r\n", 405, "method_not_allowed"),
    "GET": (b"GET /get_scene HTTP/1.1\r\n\r\n", 405, "method_not_allowed"),
    "the document, asked with a body": (
        b"GET /openapi.json HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 400, "bad_request"),
    "the document, posted": (
        b"POST /openapi.json HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 405, "method_not_allowed"),
    "the page, posted": (b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, "method_not_allowed"),
    "a new method": (b"BREW /get_scene?milk HTTP/1.1\r\n\r\n", 405, "method_not_allowed"),
    "no length": (b"POST /get_scene HTTP/1.1\r\n\r\n" + GOOD, 411, "length_required"),
    "chunked, with a length": (request("Transfer-Encoding: chunked\r\n", CHUNKS), 400, "bad_request"),
    "chunked and compressed": (chunked(CHUNKS, "gzip, chunked"), 400, "bad_request"),
    "chunked twice": (chunked(CHUNKS, "chunked\r\nTransfer-Encoding: chunked"), 400, "bad_request"),
    "a chunk without a size": (chunked(b"hello\r\n0\r\n\r\n"), 400, "bad_request"),
    "a chunk of a negative size": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), 400, "bad_request"),
    "a chunk longer than its size": (chunked(b"4\r\nhello\r\n0\r\n\r\n"), 400, "bad_request"),
    "a chunk that ends too early": (chunked(b"99\r\nhello\r\n0\r\n\r\n"), 400, "bad_request"),
    "chunks without an end": (chunked(b"5\r\nhello\r\n"), 400, "bad_request"),
    "trailers without an end": (chunked(b"0\r\n" + b"X: a\r\n" * 101), 400, "bad_request"),
    "too many chunks": (chunked(b"1\r\n \r\n" * 20_001 + b"0\r\n\r\n"), 400, "bad_request"),
    "too large a chunk": (chunked(b"263e161\r\n"), 413, "photo_too_large"),
    "chunks that are too large together": (
        chunked((b"131f0b1\r\n" + bytes(20_050_097) + b"\r\n") * 2), 413, "photo_too_large"),
    "a size too long to read": (chunked(b"0" * 2000), 400, "bad_request"),
    "two lengths": (request("Content-Length: 5\r\n"), 400, "bad_request"),
    "a negative length": (request(length=-1), 400, "bad_request"),
    "a length in words": (request(length="many"), 400, "bad_request"),
    "a length with a sign": (request(length="+5"), 400, "bad_request"),
    "a length too long to read": (request(length="9" * 5000), 413, "photo_too_large"),
    "too large": (request(length=40_100_001), 413, "photo_too_large"),
    "too large, and sent": (request(data=bytes(41_000_000)), 413, "photo_too_large"),
    "not HTTP": (b"hello\r\n\r\n", 400, "bad_request"),
    "TLS": (bytes.fromhex("1603010200010001fc0303") + b"\r\n\r\n", 400, "bad_request"),
    "HTTP of the future": (b"POST /get_scene HTTP/9.9\r\n\r\n", 400, "bad_request"),
    "a long address": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414, "address_too_long"),
    "a long header": (request("X: " + "a" * 70_000 + "\r\n"), 431, "headers_too_large"),
    "many headers": (request("X: a\r\n" * 200), 431, "headers_too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_ends_the_connection(name, server):
    """The next bytes may be the rest of a body, so the server must not take them for a request."""
    data, expected, code = REFUSED[name]
    with server.connect() as connection:
        connection.sendall(data + request())
        connection.shutdown(socket.SHUT_WR)
        status, headers, answer, rest = receive(connection)
    assert (status, answer["error"]["code"], headers["Connection"], rest) == (expected, code, "close", b"")
    allowed = "GET, HEAD" if "posted" in name else "POST"
    assert headers.get("Allow") == (allowed if status == 405 else None)
    assert server.ask()[0] == 200


def test_head_has_no_body(server):
    with server.connect() as connection:
        connection.sendall(b"HEAD /get_scene HTTP/1.1\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        data = connection.recv(1 << 16) + connection.recv(1 << 16)
    assert data.startswith(b"HTTP/1.1 405 ") and data.endswith(b"\r\n\r\n")


def test_a_mode_without_a_model(strict):
    status, answer = strict().ask(body("FCNN"))
    assert (status, answer["error"]["code"]) == (503, "model_missing")


# Clients that keep us waiting


def drip(connection, data):
    """Sends a byte now and then until the server hangs up. Returns how many it sent."""
    for i in range(100):
        try:
            connection.sendall(data[i:i + 1])
        except OSError:
            return i
        time.sleep(0.1)
    return 100


@pytest.fixture
def hasty(strict):
    return strict(HEADER_SECONDS=0.5, BODY_SECONDS=0.7, GOODBYE_SECONDS=0.3)


def test_a_slow_header_ends_the_connection(hasty):
    with hasty.connect() as connection:
        assert drip(connection, request()) < 50
    assert hasty.ask()[0] == 200


def test_silence_ends_the_connection(hasty):
    with hasty.connect() as connection:
        assert connection.recv(10) == b""                   # silence before the first request
    with hasty.connect() as connection:
        connection.sendall(request())
        assert receive(connection)[0] == 200                # and after a request


def test_a_slow_body_is_told_so(hasty):
    with hasty.connect() as connection:
        connection.sendall(request(data=GOOD[:100], length=len(GOOD)))
        dripping = threading.Thread(target=drip, args=(connection, GOOD[100:]))
        dripping.start()
        status, _, answer, _ = receive(connection)
        dripping.join()
    assert (status, answer["error"]["code"]) == (408, "request_timeout")
    assert hasty.ask()[0] == 200


def test_a_body_shorter_than_announced(hasty):
    with hasty.connect() as connection:
        connection.sendall(request(length=len(GOOD) + 1))
        assert receive(connection)[0] == 408                # after a wait, while the client may still send
    with hasty.connect() as connection:
        connection.sendall(request(length=len(GOOD) + 1))
        connection.shutdown(socket.SHUT_WR)
        status, _, answer, _ = receive(connection)          # at once, when it cannot
    assert (status, answer["error"]["code"]) == (400, "bad_request")


def test_clients_that_hang_up(hasty):
    for data in (b"", b"POST", request()[:60], request()[:-10], request(), request(data=bytes(9_000_000))):
        for linger in (b"\0" * 8, b"\1\0\0\0\0\0\0\0"):     # a normal close, and a reset
            with hasty.connect() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(data[:100_000])
    assert hasty.ask()[0] == 200
    assert not [line for line in hasty.lines() if "error" in line]      # none of it is an error of ours


def test_only_so_many_connections(strict):
    server = strict(THREADS=7)
    server.ask()
    server.until(lambda: server.threads() == 2)             # the connection's own thread has ended
    held = [server.connect() for _ in range(5)]
    with server.connect() as connection:                    # one more is refused before it sends anything
        status, headers, answer, _ = receive(connection)
    assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "1", "too_busy")
    for connection in held:
        connection.close()
    server.until(lambda: server.send(request("Connection: close\r\n"))[0] == 200)
    assert {line["code"] for line in server.lines()} == {"too_busy", None}


def test_only_so_many_bytes(strict):
    server = strict(ROOM=1.05)
    with server.connect() as slow:
        slow.sendall(request(data=GOOD, length=40_000_000))
        server.until(lambda: server.ask(b" " * 2_500_000)[0] == 503)
        assert server.ask()[0] == 200                       # there is room for a smaller request
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/get_scene", b" " * 2_500_000)
        response = connection.getresponse()
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        connection.close()
    server.until(lambda: server.ask(b" " * 2_500_000)[0] == 400)        # read again, but not JSON


# Start and end


def serve(*arguments):
    """(exit code, stderr) of a server that does not start."""
    command = [sys.executable, "-m", "scene.serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "" and "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_what_is_wrong_at_the_start_is_a_sentence(paths, server, tmp_path):
    cnn = paths["CNN"]
    none = tmp_path / "none"
    bad = tmp_path / "bad"
    bad.write_text("no model")
    assert serve("--model", none) == (2, f"{none}: No such file or directory.\n")
    assert serve("--model", bad) == (2, f"{bad} is not a usable model: it is not a model file.\n")
    said = f"{cnn} is the second model of mode CNN: give one for each mode.\n"
    assert serve("--model", cnn, cnn) == (2, said)
    code, said = serve("--model", cnn, "--port", server.port)
    pattern = r"Cannot listen on 127\.0\.0\.1, port \d+: .+\. Choose others with --host and --port\.\n"
    assert code == 2 and re.fullmatch(pattern, said)
    code, said = serve("--model", cnn, "--host", "no.such.host.invalid")
    assert code == 2 and said.startswith("Cannot listen on no.such.host.invalid, port 8000: ")
    assert "65536 is not from 0 to 65535" in serve("--model", cnn, "--port", 65536)[1]


def test_an_origin():
    assert scene.serve.origin("HTTPS://Example.com:8443") == "https://example.com:8443"
    for wrong in "", "*", "example.com", "https://example.com/", "https://a b", "null", "https://*.example":
        with pytest.raises(argparse.ArgumentTypeError, match="is not an origin such as https://example.com"):
            scene.serve.origin(wrong)


@pytest.mark.parametrize("how, code, said", [(signal.SIGINT, 130, "\nStopped.\n"), (signal.SIGTERM, 143, "")])
def test_it_waits_for_no_slow_client_and_ends_cleanly(how, code, said, paths, tmp_path):
    server = Server(tmp_path, "--model", *paths.values(), STOP_SECONDS=0.5)
    with server.connect() as slow, server.connect():
        slow.sendall(request(length=10_000))
        assert server.ask()[0] == 200
        assert server.stop(how) == code
    assert server.errors.read_text() == said


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_requests_in_progress_are_answered_when_it_stops(how, code, paths, tmp_path):
    """One that has arrived only in part, and many that wait for their turn. New connections are refused."""
    server = Server(tmp_path, "--model", *paths.values())
    whole = request()
    with server.connect() as slow, server.connect() as idle, ThreadPoolExecutor(10) as pool:
        slow.sendall(whole[:-100])
        assert server.ask()[0] == 200
        crowd = [server.connect() for _ in range(10)]
        for connection in crowd:
            connection.sendall(whole)
        server.until(lambda: len(server.lines()) > 2)
        stopped = pool.submit(server.stop, how)
        time.sleep(0.3)
        slow.sendall(whole[-100:])
        for connection in [slow, *crowd]:
            status, headers, _, _ = receive(connection)
            assert status == 200
            connection.close()
        assert stopped.result() == code
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
