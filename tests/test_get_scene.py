"""lambda/get_scene.py: events in, answers out, with models from S3 over HTTP (moto) or from failing servers.

tests/test_runtime.py runs the same handler in Lambda's own runtime client. Each `cold_start` makes a new copy
of the module, as a new process would have it.
"""

import base64
import http.server
import importlib.util
import json
import math
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
boto3 = pytest.importorskip("boto3", reason="needs pip install -e '.[cloud]'")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

from scene.answer import endpoint  # noqa: E402
from scene.answer.class_map import class_maps  # noqa: E402
from scene.answer.classifier import Classifier  # noqa: E402
from scene.models import MODES  # noqa: E402
from scene.nn.activation import ReLU  # noqa: E402
from scene.nn.layer import Network  # noqa: E402
from scene.nn.linear import Flatten, Linear  # noqa: E402
from scene.nn.normalize import Normalize  # noqa: E402
from scene.nn.winograd import WinogradConv2d  # noqa: E402
from scene.photos.decode import REMOTE  # noqa: E402
from tests.asking import (  # noqa: E402
    CLASSES,
    OCEAN,
    check,
    model_file,
    model_files,
    overflowing_network,
    small_network,
)

SOURCE = Path(__file__).parent.parent / "lambda" / "get_scene.py"
BUCKET, REGION = "the-models", "eu-central-1"
CONTEXT = SimpleNamespace(aws_request_id="of-lambda", function_name="scene-test")
PHOTO = base64.b64encode(OCEAN).decode()


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def aws_client(service, url):
    return boto3.client(service, region_name=REGION, endpoint_url=url,
                        aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bytes of model files: one for each mode, a second CNN, and bad ones."""
    folder = tmp_path_factory.mktemp("models")
    files = model_files(folder)
    files["new CNN"] = model_file(small_network("CNN", seed=1), "CNN", folder / "new")
    files["overflowing"] = model_file(overflowing_network("CNN"), "CNN", folder / "overflowing")
    files["corrupt"] = files["CNN"][:-1] + bytes([files["CNN"][-1] ^ 1])
    files["half"] = files["CNN"][:9999]
    files["no model"] = b"<html>"
    return files


@pytest.fixture
def s3(moto, files):
    """A client of a new bucket with a model for each mode."""
    client = aws_client("s3", moto)
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    for mode in MODES:
        client.put_object(Bucket=BUCKET, Key=f"model_{mode}", Body=files[mode])
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def environment(moto, monkeypatch):
    """Sets what Lambda would set. environment(NAME=value) changes it; None removes a variable."""
    def change(**values):
        for name, value in values.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    for name in ("SCENE_BUCKET_OWNER", "SCENE_URL_SUFFIX", "SCENE_CORS_ORIGIN", "SCENE_CANDIDATE_KEY",
                 "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                 "AWS_CONTAINER_AUTHORIZATION_TOKEN"):
        change(**{name: None})
    change(SCENE_BUCKET=BUCKET, SCENE_ARRAYS=None, **{f"SCENE_KEY_{mode}": None for mode in MODES})
    change(AWS_REGION=REGION, AWS_DEFAULT_REGION=None, AWS_ENDPOINT_URL_S3=moto, AWS_ENDPOINT_URL=None)
    change(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    return change


def cold_start():
    """The module as a new process has it, with a clock `now`, and S3's status for each request in `asked`."""
    spec = importlib.util.spec_from_file_location("get_scene", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.now = math.ceil(time.monotonic())    # by this clock it may have loaded its models already
    module.asked = []
    module.MODELS.clock = lambda: module.now
    request = module.Bucket.request

    def noted(*arguments):
        answer = request(*arguments)
        module.asked.append(answer[0])
        return answer

    module.Bucket.request = noted
    return module


@pytest.fixture
def get_scene(s3, environment):
    return cold_start()


@pytest.fixture
def lines(capsys):
    """lines() -> the lines of the log since it was last called."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def proxy(mode="CNN", **changes):
    body = json.dumps({"mode": mode, "imageBase64": PHOTO})
    context = {"requestId": "of-the-gateway"}
    return {"httpMethod": "POST", "body": body, "isBase64Encoded": False, "requestContext": context} | changes


def ask(module, mode="CNN"):
    """(HTTP status, answer) through API Gateway, checked."""
    reply = module.handler(proxy(mode), CONTEXT)
    assert reply["headers"] == {"Content-Type": "application/json"}
    check(reply["statusCode"], reply["body"], "of-the-gateway")
    return reply["statusCode"], json.loads(reply["body"])


def name(data):
    return Classifier.load(data).name


def code(answer):
    return answer["error"]["code"]


# Events


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arrays", ["numpy", "torch"])
def test_the_answer_is_the_classifiers(mode, arrays, s3, environment, files):
    environment(SCENE_ARRAYS=arrays)
    module = cold_start()
    expected = Classifier.load(files[mode]).classify(OCEAN, REMOTE)
    status, answer = ask(module, mode)
    assert (status, answer["scene"]) == (200, next(iter(expected)))
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert answer["model"] == name(files[mode])
    assert isinstance(module.MODELS.find(mode).network.params, torch.Tensor) == (arrays == "torch")


def test_a_direct_invocation_gets_the_bare_answer(get_scene):
    answer = get_scene.handler({"mode": "CNN", "imageBase64": PHOTO}, CONTEXT)
    assert answer == ask(get_scene)[1] | {"requestId": "of-lambda"}
    refused = get_scene.handler({"mode": "CNN"}, CONTEXT)
    check(400, json.dumps(refused), "of-lambda")
    assert code(refused) == "missing_field"


def test_a_body_in_base64(get_scene):
    encoded = base64.b64encode(proxy()["body"].encode()).decode()
    reply = get_scene.handler(proxy(body=encoded, isBase64Encoded=True), CONTEXT)
    assert reply == get_scene.handler(proxy(), CONTEXT) and reply["statusCode"] == 200


def raw(photo=OCEAN, mode="CNN", kind="image/jpeg", **changes):
    """API Gateway's event for a photo as the body."""
    query = {"mode": mode} if mode is not None else None
    return proxy(body=base64.b64encode(photo).decode(), isBase64Encoded=True, headers={"Content-Type": kind},
                 queryStringParameters=query) | changes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "Image/JPEG; x=y", " image/jpeg"])
def test_a_photo_as_the_body(kind, mode, get_scene):
    reply = get_scene.handler(raw(mode=mode, kind=kind), CONTEXT)
    assert reply == get_scene.handler(proxy(mode), CONTEXT) and reply["statusCode"] == 200


@pytest.mark.parametrize(("event", "expected"), [
    (raw(mode=None), "missing_field"), (raw(mode=""), "missing_field"), (raw(mode="RNN"), "bad_mode"),
    (raw(photo=b""), "empty_photo"), (raw(photo=b"ocean"), "not_a_photo"),
    (raw(photo=OCEAN[:-999]), "damaged_photo"), (raw(photo=OCEAN + bytes(4_400_000)), "photo_too_large"),
    (raw(kind="image/webp", photo=b"RIFF"), "not_a_photo"),
    (raw(kind="application/json"), "not_json"), (raw(kind="text/plain"), "not_json"),
    (raw(headers=None), "not_json"), (raw(headers={"content-type": 5}), "not_json"),
    (raw(headers={"CONTENT-TYPE": "image/png"}, queryStringParameters=5), "missing_field"),
    (raw(body=None), "empty_photo"), (raw(body="é", isBase64Encoded=False), "not_a_photo"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_photo_as_the_body_that_cannot_be_used(event, expected, get_scene):
    reply = get_scene.handler(event, CONTEXT)
    check(reply["statusCode"], reply["body"], "of-the-gateway")
    assert code(json.loads(reply["body"])) == expected


def test_json_as_before_whatever_the_query(get_scene):
    event = proxy(headers={"Content-Type": "application/json"}, queryStringParameters={"mode": "FCNN"})
    assert json.loads(get_scene.handler(event, CONTEXT)["body"])["mode"] == "CNN"


def test_answers_and_refusals_name_the_one_origin(s3, environment):
    environment(SCENE_CORS_ORIGIN="https://example.com")
    module = cold_start()
    for event in proxy(), proxy(body="{"):
        headers = module.handler(event, CONTEXT)["headers"]
        assert headers["Access-Control-Allow-Origin"] == "https://example.com"


@pytest.mark.parametrize("event", [
    {"warm": True}, {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}},
    {"source": "serverless-plugin-warmup"}, {"source": "aws.scheduler"}], ids=str)
def test_a_warm_up_loads_every_model(event, get_scene, files, lines):
    expected = {mode: name(files[mode]) for mode in MODES}
    assert get_scene.handler(event, CONTEXT) == {"warm": expected}
    line, = lines()
    assert line == {"warm": expected, "cold": True, "function": "scene-test"}
    before = list(get_scene.asked)
    assert ask(get_scene)[0] == 200 and get_scene.asked == before
    assert not lines()[0]["cold"]


def test_a_warm_up_says_what_is_wrong(get_scene, s3, files):
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["corrupt"])
    s3.delete_object(Bucket=BUCKET, Key="model_FCNN")
    assert get_scene.handler({"warm": True}, CONTEXT) == {
        "warm": {"CNN": "model_unreadable", "FCNN": "model_missing"}}


def test_no_caller_of_the_gateway_can_warm_up_or_try(get_scene):
    for body in {"warm": True}, {"source": "aws.events"}, {"try": "CNN"}:
        reply = get_scene.handler(proxy(body=json.dumps(body)), CONTEXT)
        assert code(json.loads(reply["body"])) == "missing_field"
        reply = get_scene.handler(body | {"requestContext": {}}, CONTEXT)
        assert code(json.loads(reply["body"])) == "not_json"


@pytest.mark.parametrize("good", [True, False])
def test_a_candidate_is_tried_and_never_used(good, get_scene, s3, files):
    ask(get_scene)
    s3.put_object(Bucket=BUCKET, Key="candidate", Body=files["new CNN" if good else "corrupt"])
    answer = get_scene.handler({"try": "CNN"}, CONTEXT)
    if good:
        assert answer == {"model": name(files["new CNN"])}
    else:
        assert "do not match its SHA-256" in answer["refused"]
    get_scene.now += 60
    assert ask(get_scene)[1]["model"] == name(files["CNN"])
    assert get_scene.handler({"try": "FCNN"}, CONTEXT)["refused"]


@pytest.mark.parametrize("event", [
    {"try": "XNN"}, {"try": 5}, {"try": ["CNN"]}, {"warm": 1}, {"source": ["aws.events"]}], ids=str)
def test_what_only_looks_like_it_is_a_request(event, get_scene):
    check(400, json.dumps(get_scene.handler(event, CONTEXT)), "of-lambda")


@pytest.mark.parametrize("changes", [
    {"body": None}, {"body": ""}, {"body": 5}, {"body": "\ud800"}, {"body": "{"},
    {"body": "A", "isBase64Encoded": True}, {"body": None, "isBase64Encoded": True},
    {"body": "ä", "isBase64Encoded": True}], ids=str)
def test_no_body_or_a_broken_one(changes, get_scene):
    reply = get_scene.handler(proxy(**changes), CONTEXT)
    check(400, reply["body"], "of-the-gateway")
    assert code(json.loads(reply["body"])) == "not_json"


@pytest.mark.parametrize(
    "event", [None, "text", 5, [], {}, {"httpMethod": "POST"}, {"requestContext": None}], ids=str)
def test_any_event_is_answered(event, get_scene):
    answer = get_scene.handler(event, CONTEXT)
    check(400, json.dumps(answer), "of-lambda")


def test_a_gateway_without_an_id(get_scene):
    reply = get_scene.handler(proxy(requestContext={}), CONTEXT)
    check(200, reply["body"], "of-lambda")


# Settings


@pytest.mark.parametrize(
    "missing", ["SCENE_BUCKET", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_missing_setting_is_said_at_the_start(missing, environment):
    environment(**{missing: None})
    with pytest.raises(RuntimeError, match=missing.replace("_REGION", "_DEFAULT_REGION") + " is not set: "):
        cold_start()


def test_an_unknown_array_library_is_said_at_the_start(environment):
    environment(SCENE_ARRAYS="jax")
    with pytest.raises(RuntimeError, match="^SCENE_ARRAYS must be numpy or torch.$"):
        cold_start()


def test_keys_and_bucket_are_the_owners_choice_alone(s3, environment, files):
    s3.put_object(Bucket=BUCKET, Key="some folder/CNN+ü&2", Body=files["new CNN"])
    environment(SCENE_KEY_CNN="some folder/CNN+ü&2")
    module = cold_start()
    assert ask(module)[1]["model"] == name(files["new CNN"])
    for field in ("bucket", "key", "SCENE_BUCKET"):
        answer = module.handler({"mode": "CNN", "imageBase64": PHOTO, field: "mine"}, CONTEXT)
        assert code(answer) == "unknown_field"


def test_requests_are_signed_as_iam_wants_it(moto, s3, environment, lines):
    """moto checks signatures as AWS does, once told to: the right secret passes, another is refused."""
    iam = aws_client("iam", moto)
    iam.create_user(UserName="reader")
    allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/model_CNN"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    environment(AWS_ACCESS_KEY_ID=key["AccessKeyId"], AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"],
                AWS_SESSION_TOKEN=None)
    enforce(moto, b"0")
    try:
        module = cold_start()
        assert ask(module, "CNN")[0] == 200
        status, answer = ask(module, "FCNN")                    # the policy does not allow it
        assert (status, code(answer)) == (503, "model_missing")
        assert "S3 answered 403" in lines()[-1]["error"]["message"]
        module.now += 61
        environment(AWS_SECRET_ACCESS_KEY="another")
        assert ask(module, "CNN")[0] == 200                     # the model in memory
        cause = lines()[-2]["error"]["message"]
        assert cause == "S3 answered 403 SignatureDoesNotMatch for model_CNN"       # nothing that was signed
        status, answer = ask(module, "FCNN")                    # it may be there, for all that is known
        assert (status, code(answer)) == (503, "storage_unreachable")
    finally:
        enforce(moto, b"1000000000")


def enforce(moto, after):
    """Makes moto check every request after this many."""
    urlopen(Request(f"{moto}/moto-api/reset-auth", after, {"Content-Type": "text/plain"})).close()


# Keeping and refreshing


def test_a_model_is_fetched_when_first_asked_for_and_kept(get_scene):
    assert get_scene.asked == []
    assert ask(get_scene)[0] == ask(get_scene)[0] == 200
    assert get_scene.asked == [200]
    ask(get_scene, "FCNN")
    assert get_scene.asked == [200, 200]


def test_it_looks_once_a_minute_whether_the_model_has_changed(get_scene, s3, files):
    ask(get_scene)
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["new CNN"])
    get_scene.now += 59
    assert ask(get_scene)[1]["model"] == name(files["CNN"]) and get_scene.asked == [200]
    get_scene.now += 1
    assert ask(get_scene)[1]["model"] == name(files["new CNN"]) and get_scene.asked == [200, 200]
    get_scene.now += 60
    assert [ask(get_scene)[0] for _ in range(3)] == [200] * 3
    assert get_scene.asked == [200, 200, 304]


BAD = {"corrupt": "do not match its SHA-256", "half": "damaged", "no model": "it is not a model file",
       "FCNN": "of mode FCNN, not CNN", "overflowing": "its probabilities are NaN"}


@pytest.mark.parametrize("bad, why", BAD.items())
def test_a_bad_new_model_never_replaces_a_good_one(bad, why, get_scene, s3, files, lines):
    ask(get_scene)
    lines()
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files[bad])
    get_scene.now += 60
    assert ask(get_scene)[1]["model"] == name(files["CNN"])
    failed, request = lines()
    assert failed["refresh"] == {"mode": "CNN", "code": "model_unreadable"}
    assert why in failed["error"]["message"]
    assert (request["status"], request["code"]) == (200, None)
    get_scene.now += 60
    assert ask(get_scene)[1]["model"] == name(files["CNN"])
    assert get_scene.asked == [200, 200, 304]                   # not fetched again
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["new CNN"])
    get_scene.now += 60
    assert ask(get_scene)[1]["model"] == name(files["new CNN"])


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_first_model(bad, get_scene, s3, files, lines):
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files[bad])
    status, answer = ask(get_scene)
    assert (status, code(answer)) == (503, "model_unreadable")
    assert lines()[-1]["error"]["type"] == "ModelFileError"
    assert ask(get_scene, "FCNN")[0] == 200                     # the other mode works
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["CNN"])
    get_scene.now += 5
    assert ask(get_scene)[0] == 200                             # soon, not after a minute


@pytest.mark.parametrize("bad", [None, *BAD])
def test_a_failed_load_is_not_repeated_for_every_request(bad, get_scene, s3, files, lines):
    if bad:
        s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files[bad])
    else:
        s3.delete_object(Bucket=BUCKET, Key="model_CNN")
    answers = [ask(get_scene) for _ in range(20)]
    assert all(answer == answers[0] for answer in answers) and len(get_scene.asked) == 1
    assert all(line["error"]["trace"] for line in lines())
    assert len(json.dumps(lines())) < 10
    get_scene.now += 4.9
    ask(get_scene)
    assert len(get_scene.asked) == 1
    get_scene.now += 0.1
    ask(get_scene)
    assert len(get_scene.asked) == 2


def test_a_model_that_is_not_there(get_scene, s3, files, lines):
    s3.delete_object(Bucket=BUCKET, Key="model_CNN")
    status, answer = ask(get_scene)
    assert (status, code(answer)) == (503, "model_missing")
    assert "S3 answered 404 NoSuchKey for model_CNN" in lines()[-1]["error"]["message"]
    s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["CNN"])
    get_scene.now += 5
    assert ask(get_scene)[0] == 200


def test_a_model_deleted_later_is_kept(get_scene, s3, files, lines):
    ask(get_scene)
    s3.delete_object(Bucket=BUCKET, Key="model_CNN")
    get_scene.now += 60
    assert ask(get_scene)[1]["model"] == name(files["CNN"])
    assert lines()[1]["refresh"] == {"mode": "CNN", "code": "model_missing"}


def test_a_model_beyond_all_measure(get_scene, monkeypatch):
    monkeypatch.setattr(get_scene, "MAX_MODEL", 10_000)
    assert code(ask(get_scene)[1]) == "model_unreadable"


# Storage that fails


class BadStorage(http.server.ThreadingHTTPServer):
    """An HTTP server whose n-th request calls the n-th of `deeds`, and the last one from then on."""

    daemon_threads = True

    def __init__(self, *deeds):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                deed = self.server.deeds.pop(0) if len(self.server.deeds) > 1 else self.server.deeds[0]
                deed(self)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.deeds = list(deeds)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return "http://{}:{}".format(*self.server_address)


def send(status, data):
    def deed(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
    return deed


def cut(handler):
    """Announces more than it sends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nhalf")


def hang(handler):
    time.sleep(0.6)


def trickle(handler):
    """Sends a good model in pieces: each in time, but all of them too late."""
    data = handler.server.model
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
    for i in range(0, len(data), len(data) // 12):
        handler.wfile.write(data[i:i + len(data) // 12])
        time.sleep(0.1)


@pytest.fixture
def impatient(monkeypatch):
    """impatient(module) -> the module, with short time-outs."""
    def shorten(module):
        for what, seconds in [("WAIT", 0.2), ("PATIENCE", 0.5), ("PATIENCE_REFRESH", 0.4)]:
            assert getattr(module, what) > seconds
            monkeypatch.setattr(module, what, seconds)
        return module
    return shorten


FAILING = {
    "unreachable": None,
    "closes at once": lambda handler: None,
    "cut": cut,
    "hangs": hang,
    "trickles": trickle,
    "500": send(500, b"InternalError"),
    "503": send(503, b"SlowDown"),
    "400": send(400, b"ExpiredToken"),
    "301": send(301, b"PermanentRedirect"),
    "not HTTP": lambda handler: handler.wfile.write(b"hello\r\n\r\n"),
}


@pytest.mark.parametrize("how", FAILING)
def test_failing_storage(how, environment, impatient, files, lines):
    """Without a model: 503, with the cause in the log. With one: the answer. Both recover."""
    with BadStorage(FAILING[how] or send(200, b"")) as storage:
        storage.model = files["CNN"]
        environment(AWS_ENDPOINT_URL_S3=storage.url if FAILING[how] else "http://127.0.0.1:9")
        module = impatient(cold_start())
        status, answer = ask(module)
        assert (status, code(answer)) == (503, "storage_unreachable")
        assert lines()[-1]["error"]["trace"]

        module.MODELS.kept["CNN"].model = Classifier.load(files["CNN"])
        module.now += 60
        assert ask(module)[1]["model"] == name(files["CNN"])
        failed, _ = lines()
        assert failed["refresh"] == {"mode": "CNN", "code": "storage_unreachable"}
        assert ask(module)[0] == 200 and len(lines()) == 1      # it does not try again for a minute

        module.MODELS.bucket.url = storage.url + "/"
        storage.deeds = [send(200, files["new CNN"])]
        module.now += 60
        assert ask(module)[1]["model"] == name(files["new CNN"])


@pytest.mark.parametrize("how", ["closes at once", "cut", "hangs", "500"])
def test_one_failure_is_tried_again(how, environment, impatient, files):
    with BadStorage(FAILING[how], send(200, files["CNN"])) as storage:
        environment(AWS_ENDPOINT_URL_S3=storage.url)
        assert ask(impatient(cold_start()))[0] == 200


def test_the_whole_fetch_fits_into_the_gateways_patience(get_scene):
    assert get_scene.PATIENCE + 2 * get_scene.WAIT < 20


def denial(code, message="Access Denied"):
    return f"<Error><Code>{code}</Code><Message>{message}</Message><Other>secret</Other></Error>".encode()


@pytest.mark.parametrize(("status", "data", "expected"), [
    (404, denial("NoSuchKey"), "model_missing"), (403, denial("AccessDenied"), "model_missing"),
    (403, denial("RequestTimeTooSkewed"), "storage_unreachable"),
    (403, denial("InvalidAccessKeyId"), "storage_unreachable"),
    (403, denial("SignatureDoesNotMatch"), "storage_unreachable"),
    (403, denial("AccessDenied", "not authorized to perform: kms:Decrypt"), "storage_unreachable"),
    (400, denial("KMS.DisabledException"), "storage_unreachable"),
    (403, b"", "storage_unreachable"), (403, b"<html>", "storage_unreachable")])
def test_a_refusal_of_s3_is_called_what_it_is(status, data, expected, environment, lines):
    with BadStorage(send(status, data)) as storage:
        environment(AWS_ENDPOINT_URL_S3=storage.url)
        assert code(ask(cold_start())[1]) == expected
    message = lines()[0]["error"]["message"]
    assert f"S3 answered {status}" in message and "secret" not in message


def test_the_bucket_must_belong_to_the_expected_account(environment, files):
    asked = []

    def note(handler):
        asked.append(handler.headers)
        send(200, files["CNN"])(handler)

    with BadStorage(note) as storage:
        environment(AWS_ENDPOINT_URL_S3=storage.url, SCENE_BUCKET_OWNER="123456789012")
        cold_start().MODELS.bucket.get("k", None, 1)
        environment(SCENE_BUCKET_OWNER=None)
        cold_start().MODELS.bucket.get("k", None, 1)
    assert asked[0]["x-amz-expected-bucket-owner"] == "123456789012"
    assert "x-amz-expected-bucket-owner" in asked[0]["Authorization"], "it is signed"
    assert "x-amz-expected-bucket-owner" not in asked[1]


def test_the_host_of_s3_is_that_of_the_partition(environment):
    environment(AWS_ENDPOINT_URL_S3=None, AWS_REGION="cn-north-1", SCENE_URL_SUFFIX="amazonaws.com.cn")
    assert cold_start().MODELS.bucket.url == f"https://s3.cn-north-1.amazonaws.com.cn/{BUCKET}/"
    environment(SCENE_URL_SUFFIX=None, AWS_REGION="eu-central-1")
    assert cold_start().MODELS.bucket.url == f"https://s3.eu-central-1.amazonaws.com/{BUCKET}/"


# SnapStart


@pytest.fixture
def container(environment):
    """A server of container credentials, as SnapStart has it. Its list `given` holds what it answers."""
    def answer(handler):
        server.asked.append((handler.path, handler.headers["Authorization"]))
        data = server.given[0] if len(server.given) == 1 else server.given.pop(0)
        send(200, data if isinstance(data, bytes) else json.dumps(data).encode())(handler)

    with BadStorage(answer) as server:
        server.asked = []
        server.given = [credentials("first")]
        environment(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None, AWS_SESSION_TOKEN=None,
                    AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{server.url}/creds?x=1",
                    AWS_CONTAINER_AUTHORIZATION_TOKEN="token")
        yield server


def credentials(key, until="2999-01-01T00:00:00Z"):
    return {"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": until}


def test_credentials_come_from_the_container_and_are_kept_until_they_expire(s3, container):
    container.given = [credentials("first", "2020-01-01T00:00:00Z"), credentials("second")]
    module = cold_start()
    assert [ask(module, mode)[0] for mode in MODES] == [200, 200]
    role = module.MODELS.bucket.role
    assert role.credentials().access_key == "second" and role.credentials().token == "t"
    assert container.asked == 2 * [("/creds?x=1", "token")]
    role.forget()
    role.credentials()
    assert len(container.asked) == 3


@pytest.mark.parametrize("given", [b"", b"<html>", b"[]", b"{}", {"AccessKeyId": "k"}], ids=str)
def test_bad_credentials_are_no_reason_to_crash(given, s3, container, lines):
    container.given = [given]
    module = cold_start()
    assert code(ask(module)[1]) == "storage_unreachable"
    assert "without credentials" in lines()[0]["error"]["message"]
    container.given = [credentials("k")]
    module.now += 5
    assert ask(module)[0] == 200


@pytest.mark.parametrize("kind", ["snap-start", "provisioned-concurrency", "on-demand"])
def test_models_are_loaded_in_the_init_phase_where_nobody_waits(
        kind, s3, environment, files, lines, monkeypatch):
    hooks = []
    library = SimpleNamespace(register_after_restore=hooks.append)
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", library)
    environment(AWS_LAMBDA_INITIALIZATION_TYPE=kind)
    module = cold_start()
    loaded = {mode: kept.model.name for mode, kept in module.MODELS.kept.items() if kept.model}
    expected = {mode: name(files[mode]) for mode in MODES} if kind != "on-demand" else {}
    assert loaded == expected and len(hooks) == (kind == "snap-start")
    assert lines() == ([{"preload": expected}] if expected else [])
    if kind == "snap-start":
        s3.put_object(Bucket=BUCKET, Key="model_CNN", Body=files["new CNN"])
        assert ask(module)[1]["model"] == name(files["CNN"])
        hooks[0]()                                              # restored, after who knows how long
        assert ask(module)[1]["model"] == name(files["new CNN"]) and ask(module, "FCNN")[0] == 200
        assert sorted(module.asked) == [200, 304]


def test_a_snapshot_without_models_or_credentials_still_starts(s3, environment, lines, monkeypatch):
    library = SimpleNamespace(register_after_restore=lambda hook: None)
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", library)
    environment(AWS_LAMBDA_INITIALIZATION_TYPE="snap-start", AWS_ACCESS_KEY_ID=None,
                AWS_SECRET_ACCESS_KEY=None)
    module = cold_start()
    assert lines() == [{"preload": dict.fromkeys(MODES, "storage_unreachable")}]
    environment(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    module.MODELS.expire()
    assert ask(module)[0] == 200


# The log


def test_a_line_for_each_request(get_scene, files, lines):
    ask(get_scene)
    ask(get_scene)
    get_scene.handler({"mode": "XNN", "imageBase64": PHOTO}, CONTEXT)
    first, second, third = lines()
    for line in (first, second, third):
        assert set(line["milliseconds"]) <= {"model", "decode", "predict", "total"}
        assert line["function"] == "scene-test"
        assert len(json.dumps(line)) < 1500                     # no room for a photo
    expected = {"requestId": "of-the-gateway", "status": 200, "code": None, "mode": "CNN",
                "model": name(files["CNN"]), "cold": True}
    assert first.items() >= expected.items()
    assert first["scene"] in CLASSES and not second["cold"]
    assert (third["requestId"], third["code"], third["scene"]) == ("of-lambda", "bad_mode", None)


def test_metrics_follow_the_embedded_metric_format(get_scene, lines):
    """As its specification says. Only CloudWatch itself could prove more."""
    ask(get_scene)
    get_scene.handler({}, CONTEXT)
    good, bad = lines()
    for line in (good, bad):
        assert set(line["_aws"]) == {"Timestamp", "CloudWatchMetrics"}
        assert abs(line["_aws"]["Timestamp"] - 1000 * time.time()) < 60_000
        for directive in line["_aws"]["CloudWatchMetrics"]:
            assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
            assert directive["Namespace"] == "Scene"
            dimensions = [line[key] for keys in directive["Dimensions"] for key in keys]
            assert all(isinstance(value, str) and value for value in dimensions)
            assert all(type(line[metric["Name"]]) in (int, float) for metric in directive["Metrics"])
            assert {metric["Unit"] for metric in directive["Metrics"]} <= {"Milliseconds", "Count"}
    assert (good["ColdStart"], good["Error"], bad["ColdStart"], bad["Error"]) == (1, 0, 0, 1)
    assert good["Latency"] == good["milliseconds"]["total"]
    first, second = ([d["Dimensions"] for d in line["_aws"]["CloudWatchMetrics"]] for line in (good, bad))
    assert first == [[["function"]]]
    assert second == [[["function"]], [["function", "code"]]]


def test_what_nobody_foresaw(get_scene, lines, monkeypatch):
    monkeypatch.setattr(endpoint, "classify", lambda *_: {}["/secret/path"])
    status, answer = ask(get_scene)
    assert (status, code(answer)) == (500, "internal_error") and "secret" not in json.dumps(answer)
    assert "/secret/path" in lines()[-1]["error"]["trace"]


def test_a_network_whose_map_needs_its_weights_keeps_them(s3, environment, monkeypatch, tmp_path):
    """The map of a network that does not end in a mean is a gradient. It folds the network again."""
    class Flat(Network):
        def __init__(self, classes, image_size=8):
            self.image_size = image_size
            super().__init__(Normalize(), WinogradConv2d(3, 4), ReLU(), Flatten(),
                             Linear(4 * image_size ** 2, classes))

    monkeypatch.setitem(MODES, "CNN", MODES["CNN"]._replace(network=Flat))
    data = model_file(Flat(len(CLASSES)).start(torch.Generator().manual_seed(0)), "CNN", tmp_path / "flat")
    photo = np.random.default_rng(0).integers(256, size=(8, 8, 3)).astype(np.uint8)
    found, expected = (class_maps(model, photo, [0, 1])
                       for model in (cold_start().MODELS.load(data, "CNN"), Classifier.load(data)))
    for one, other in zip(found, expected, strict=True):
        assert one.bias is None
        np.testing.assert_allclose(one.places, other.places, rtol=1e-4)
