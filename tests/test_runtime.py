"""The built zips in AWS's own runtime client, in Python 3.13 and with nothing else; models from S3 (moto)."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from samples import samples
from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.answer.endpoint import STATUS
from scene.models import MODES
from tests.runtime import ROOT, free_port, read_files, serve_s3

pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
boto3 = pytest.importorskip("boto3", reason="needs pip install -e '.[cloud]'")

OCEAN = (ROOT / "datasets/test/ocean/ocean_000.jpg").read_bytes()
ROAD = (ROOT / "datasets/test/road/road_000.jpg").read_bytes()
DECODE = "scene/photos/decode"


@pytest.fixture(scope="module")
def function(make, s3):
    with make(AWS_ENDPOINT_URL_S3=s3) as function:
        yield function


def request(mode="CNN", photo=OCEAN):
    return {"mode": mode, "imageBase64": base64.b64encode(photo).decode()}


def proxy(body):
    """API Gateway's event for a POST with this body."""
    return {"resource": "/get_scene", "path": "/get_scene", "httpMethod": "POST", "headers": {}, "body": body,
            "isBase64Encoded": False, "requestContext": {"requestId": "of-the-gateway", "stage": "prod"}}


def answer(result):
    """The handler's answer to a direct invocation, which must not have failed."""
    assert not result.failed, result
    return result.payload


def log_lines(function):
    return [json.loads(line) for line in function.log.read_text().splitlines()]


# Answers


@pytest.mark.parametrize("mode", MODES)
def test_the_same_probabilities_as_here(function, models, mode):
    for photo in OCEAN, ROAD, samples()["jpeg turned"], samples()["png grey, 16 bits"]:
        expected = Classifier.open(models / f"model_{mode}").classify(photo)
        direct = answer(function.invoke(request(mode, photo)))
        through_gateway = answer(function.invoke(proxy(json.dumps(request(mode, photo)))))
        for got in direct, json.loads(through_gateway["body"]):
            assert (got["scene"], got["mode"]) == (next(iter(expected)), mode)
            assert got["probabilities"] == pytest.approx(expected, abs=1e-5)


BAD = {
    "not_json": "{",
    "not_an_object": "[]",
    "missing_field": json.dumps({"mode": "CNN"}),
    "unknown_field": json.dumps(request() | {"bucket": "mine"}),
    "wrong_type": json.dumps({"mode": 1, "imageBase64": ""}),
    "bad_mode": json.dumps({"mode": "RNN", "imageBase64": ""}),
    "bad_base64": json.dumps({"mode": "CNN", "imageBase64": "?"}),
    "empty_photo": json.dumps({"mode": "CNN", "imageBase64": ""}),
    "not_a_photo": json.dumps(request(photo=b"ocean")),
    "damaged_photo": json.dumps(request(photo=OCEAN[:-999])),
    "photo_too_large": json.dumps(request(photo=samples()["refused: png of 10 billion pixels"])),
}


@pytest.mark.parametrize("code", BAD)
def test_each_mistake_has_its_code(function, code):
    reply = answer(function.invoke(proxy(BAD[code])))
    assert (reply["statusCode"], reply["headers"]["Content-Type"]) == (STATUS[code], "application/json")
    body = json.loads(reply["body"])
    assert (body["error"]["code"], body["requestId"]) == (code, "of-the-gateway")
    if code != "not_json":
        direct = answer(function.invoke(json.loads(BAD[code])))
        assert direct["error"] == body["error"] and direct["requestId"] not in ("", "of-the-gateway")


@pytest.mark.parametrize(("code", "environment"), [
    ("model_missing", {"SCENE_KEY_CNN": "none"}),
    ("model_unreadable", {"SCENE_KEY_CNN": "no_model"}),
    ("model_unreadable", {"SCENE_KEY_CNN": "model_FCNN"}),
])
def test_without_its_model_one_mode_fails_and_the_other_works(make, s3, code, environment):
    with make(AWS_ENDPOINT_URL_S3=s3, **environment) as function:
        reply = answer(function.invoke(proxy(json.dumps(request("CNN")))))
        assert (reply["statusCode"], json.loads(reply["body"])["error"]["code"]) == (503, code)
        assert "scene" in answer(function.invoke(request("FCNN")))
        assert [line["code"] for line in log_lines(function)] == [code, None]


def test_s3_is_down_and_comes_back(make, models):
    port = free_port()
    with make(AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}") as function:
        assert answer(function.invoke(request()))["error"]["code"] == "storage_unreachable"
        moto, _ = serve_s3(read_files(models), port)
        try:
            deadline = time.monotonic() + 30
            while "scene" not in answer(function.invoke(request())):  # it tries again after 5 s
                assert time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            moto.stop()
        assert "scene" in answer(function.invoke(request()))        # from memory
        statuses = [line["status"] for line in log_lines(function)]
        assert statuses == (len(statuses) - 2) * [503] + [200, 200]


def test_what_nobody_foresaw_is_a_500_whose_trace_is_in_the_log(make, s3, bundle, tmp_path):
    shutil.copytree(bundle / "code", tmp_path / "code")
    (tmp_path / f"code/{DECODE}.pyc").unlink()
    source = (ROOT / f"{DECODE}.py").read_text(encoding="utf-8")
    source += "\n\ndef decode(*_):\n    raise RuntimeError('a secret')\n"
    (tmp_path / f"code/{DECODE}.py").write_text(source, encoding="utf-8")
    with make(code=tmp_path / "code", AWS_ENDPOINT_URL_S3=s3) as function:
        result = answer(function.invoke(request()))
        assert result["error"]["code"] == "internal_error" and "secret" not in json.dumps(result)
        assert "RuntimeError: a secret" in log_lines(function)[0]["error"]["trace"]


# SnapStart


@pytest.fixture
def snapshot(make, models):
    """A function whose snapshot was taken, with credentials from a server as SnapStart has it, and its S3."""
    moto, url = serve_s3(read_files(models))
    given = {"AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "t",
             "Expiration": "2999-01-01T00:00:00Z"}

    class Credentials(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Authorization"] == "token"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(given).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Credentials)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with make(AWS_ENDPOINT_URL_S3=url, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start", AWS_ACCESS_KEY_ID="",
              AWS_SECRET_ACCESS_KEY="", AWS_SESSION_TOKEN="",
              AWS_CONTAINER_CREDENTIALS_FULL_URI=f"http://127.0.0.1:{server.server_port}/creds",
              AWS_CONTAINER_AUTHORIZATION_TOKEN="token") as function:
        function.snapshot()
        yield function, url
    server.shutdown()
    moto.stop()


def test_a_snapshot_holds_the_models_and_a_restored_sandbox_looks_for_new_ones(snapshot, models, tmp_path):
    """With AWS's own runtime client and its runtime hooks."""
    function, url = snapshot
    names = {mode: Classifier.open(models / f"model_{mode}").name for mode in MODES}
    assert log_lines(function) == [{"preload": names}]
    new = tmp_path / "new"
    network, card = modelfile.load((models / "model_CNN").read_bytes())
    modelfile.save(new, network, card | {"classes": card["classes"][::-1]})
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key",
                 aws_secret_access_key="secret").put_object(Bucket="models", Key="model_CNN",
                                                            Body=new.read_bytes())
    assert answer(function.invoke(request("CNN")))["model"] == Classifier.open(new).name
    assert answer(function.invoke(request("FCNN")))["model"] == names["FCNN"]
    assert [line["cold"] for line in log_lines(function)[1:]] == [True, False]


def test_a_warm_up_and_a_candidate(make, models, tmp_path):
    moto, url = serve_s3(read_files(models) | {"candidate": (models / "model_CNN").read_bytes()[:-9]})
    names = {mode: Classifier.open(models / f"model_{mode}").name for mode in MODES}
    with make(AWS_ENDPOINT_URL_S3=url) as function:
        assert answer(function.invoke({"warm": True})) == {"warm": names}
        assert "refused" in answer(function.invoke({"try": "CNN"}))
        assert answer(function.invoke(request()))["model"] == names["CNN"]
    moto.stop()


# The process


def test_one_line_of_json_for_each_request_and_never_the_photo(make, s3):
    with make(AWS_ENDPOINT_URL_S3=s3) as function:
        events = request(), request("FCNN"), request(photo=OCEAN[:-999])
        ids = [answer(function.invoke(event))["requestId"] for event in events]
        lines = log_lines(function)
    assert [line["requestId"] for line in lines] == ids
    assert [line["cold"] for line in lines] == [True, False, False]
    assert [(line["mode"], line["status"]) for line in lines] == [("CNN", 200), ("FCNN", 200), ("CNN", 400)]
    for line in lines:
        directives = line["_aws"]["CloudWatchMetrics"]
        metrics = {metric["Name"] for directive in directives for metric in directive["Metrics"]}
        assert metrics == {"Latency", "ColdStart", "Error"} <= set(line)
        assert len(json.dumps(line)) < 1500
    text = function.log.read_text()
    assert request()["imageBase64"][:40] not in text and request()["imageBase64"][-40:] not in text


def test_past_its_deadline_the_process_is_thrown_away_and_the_next_request_starts_another(make, models):
    with socket.create_server(("127.0.0.1", 0)) as silent:          # accepts the connection and never answers
        port = silent.getsockname()[1]
        function = make(timeout=1, AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}")
        with function:
            payload, failed = function.invoke(request())
            assert failed and payload["errorType"] == "Sandbox.Timedout"
            assert "timed out after 1.00 seconds" in payload["errorMessage"]
            assert function.process is None
            silent.close()
            function.timeout = 30
            moto, _ = serve_s3(read_files(models), port)
            try:
                assert "scene" in answer(function.invoke(request()))
            finally:
                moto.stop()
            assert [line["cold"] for line in log_lines(function)] == [True]


@pytest.mark.parametrize(("environment", "sentence"), [
    ({"SCENE_BUCKET": ""}, "SCENE_BUCKET is not set"),
    ({"SCENE_ARRAYS": "tensorflow"}, "SCENE_ARRAYS must be numpy or torch"),
    ({"SCENE_ARRAYS": "torch"}, "No module named 'torch'"),
])
def test_a_wrong_setting_is_an_error_of_the_initialisation(make, s3, environment, sentence):
    with make(AWS_ENDPOINT_URL_S3=s3, **environment) as function:
        for _ in range(2):                                          # each request tries it again
            payload, failed = function.invoke(request())
            assert failed and sentence in payload["errorMessage"], payload
        assert sentence in function.log.read_text()


def test_an_incomplete_zip_is_an_error_of_the_initialisation(make, s3, bundle, tmp_path):
    shutil.copytree(bundle / "code", tmp_path / "code")
    (tmp_path / f"code/{DECODE}.pyc").unlink()
    with make(code=tmp_path / "code", AWS_ENDPOINT_URL_S3=s3) as function:
        payload, failed = function.invoke(request())
        assert failed and payload["errorType"] == "Runtime.ImportModuleError"
        assert "get_scene" in payload["errorMessage"]


def test_a_process_that_dies_is_replaced(make, s3):
    with make(AWS_ENDPOINT_URL_S3=s3) as function:
        assert "scene" in answer(function.invoke(request()))
        function.process.kill()
        payload, failed = function.invoke(request())
        assert failed and payload["errorType"] == "Runtime.ExitError"
        assert "scene" in answer(function.invoke(request()))
        assert [line["cold"] for line in log_lines(function)] == [True, True]


def test_no_torch_and_nothing_else_of_this_python_is_there(python313, bundle, client):
    script = "import get_scene, sys; print('torch' in sys.modules, sys.version_info[:2]); import torch"
    environment = {"PYTHONPATH": f"{bundle / 'code'}:{bundle / 'layer/python'}:{client}", "SCENE_BUCKET": "b",
                   "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    command = [python313, "-S", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=bundle / "code", env=environment)
    assert result.stdout == "False (3, 13)\n" and "No module named 'torch'" in result.stderr
