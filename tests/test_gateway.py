"""Requests, from a signing client through the gateway of gateway.py to AWS's runtime client, or refused.

The users, keys and policies are those that template.yaml and `key` created in moto.
"""

import base64
import hashlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from configparser import ConfigParser
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from cloudformation import __main__ as commands
from cloudformation import deployment
from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.errors import UserError
from tests import aws
from tests.aws import DEPLOYED, TEMPLATE
from tests.gateway import Gateway, allowed
from tests.runtime import NATIVE

OCEAN = aws.ROOT / "datasets/test/ocean/ocean_000.jpg"
REQUEST = b'{"mode": "CNN", "imageBase64": ""}'
REQUEST_OCEAN = {"mode": "CNN", "imageBase64": base64.b64encode(OCEAN.read_bytes()).decode()}


class Place:
    """An endpoint that `up` and `key` created in moto, with a gateway in front of `function`."""

    def __init__(self, folder, built, function, **more):
        aws.reset()
        self.folder = folder
        self.line("up", "--built", built, "--arch", NATIVE)
        aws.client("s3").put_bucket_versioning(         # moto ignores that of the template
            Bucket=aws.BUCKET, VersioningConfiguration={"Status": "Enabled"})
        self.line("key")
        profile = (folder / "credentials").read_text()
        keys = ConfigParser()
        keys.read_string(profile)
        self.key = Credentials(keys["scene"]["aws_access_key_id"], keys["scene"]["aws_secret_access_key"])
        api = urlsplit(keys["scene"]["scene_url"]).netloc.split(".")[0]
        self.arn = f"arn:aws:execute-api:{aws.REGION}:{aws.ACCOUNT}:{api}/live"
        iam = aws.client("iam")
        user = "scene-eu-central-1-caller"
        names = iam.list_user_policies(UserName=user)["PolicyNames"]
        policies = [iam.get_user_policy(UserName=user, PolicyName=name) for name in names]
        policies = [policy["PolicyDocument"] for policy in policies]
        users = {self.key.access_key: (self.key.secret_key, policies),
                 "admin": ("secret", [{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}]),
                 "stranger": ("secret", [])}
        self.gateway = Gateway(TEMPLATE, users, self.arn, function, **more)
        for section in "default", "scene":              # the gateway is the endpoint of both profiles
            keys[section]["scene_url"] = self.gateway.url
        with open(folder / "credentials", "w") as file:
            keys.write(file)

    def line(self, *arguments, check=True):
        """Runs a command as a person does: -> stdout, or the finished process if it need not succeed."""
        result = subprocess.run([sys.executable, "-m", "cloudformation", *arguments], text=True,
                                capture_output=True, cwd=aws.ROOT, env=aws.environment(self.folder))
        assert "Traceback" not in result.stderr and (result.returncode == 0 or not check), result.stderr
        return result.stdout if check else result

    def send(self, method="POST", path="/live/get_scene", body=REQUEST, headers=()):
        """Sends a request as it is: -> (status, headers, answer)."""
        connection = http.client.HTTPConnection(urlsplit(self.gateway.url).netloc, timeout=30)
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        answer = response.status, response.headers, json.loads(response.read() or "null")
        connection.close()
        return answer

    def sign(self, method="POST", path="/live/get_scene", body=REQUEST, key=None, service="execute-api",
             kind="application/json"):
        """The headers of a signed request."""
        url = self.gateway.url.replace("/live/get_scene", path)
        request = AWSRequest(method, url, data=body, headers={"Content-Type": kind})
        SigV4Auth(key or self.key, service, aws.REGION).add_auth(request)
        return dict(request.headers)


class Function:
    """A function that records its events. Each test may set its behaviour, `does`."""

    def __init__(self):
        self.events = []
        self.does = lambda event: {"statusCode": 200, "headers": {}, "body": "{}"}

    def __call__(self, event):
        self.events.append(event)
        return self.does(event)


@pytest.fixture(scope="module")
def clock():
    """The gateway's clock: the real time plus `ahead`."""
    class Clock:
        ahead = 0

        def __call__(self):
            return time.time() + self.ahead

    return Clock()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, models, clock):
    built = tmp_path_factory.mktemp("built") / "built"
    shutil.copytree(models, built)
    for name in ("get_scene.zip", f"layer-{NATIVE}.zip"):
        zipfile.ZipFile(built / name, "w").writestr("x", "")
    place = Place(tmp_path_factory.mktemp("person"), built, None, rate=5, burst=10, clock=clock)
    yield place
    place.gateway.close()


@pytest.fixture
def place(shared, clock):
    """The endpoint with a function that answers {}, and a full budget of requests."""
    clock.ahead = 0
    shared.gateway.function = Function()
    shared.gateway.tokens = 10
    shared.gateway.filled = clock()
    return shared


def code(answer):
    return answer[0], answer[2]["error"]["code"]


def test_signed_by_the_key_it_passes(place):
    assert place.send(headers=place.sign())[0] == 200
    event, = place.gateway.function.events
    assert event["httpMethod"] == "POST"
    assert json.loads(event["body"])["mode"] == "CNN"
    assert event["isBase64Encoded"] is False


@pytest.mark.parametrize(("change", "expected"), [
    (lambda place: {"headers": ()}, "not_signed"),
    (lambda place: {"headers": {"Authorization": "Basic c2NlbmU6c2NlbmU="}}, "not_signed"),
    (lambda place: {"headers": place.sign(key=Credentials(place.key.access_key, "a guess"))},
     "bad_signature"),
    (lambda place: {"headers": place.sign(key=Credentials("AKIANOBODY", place.key.secret_key))},
     "bad_signature"),
    (lambda place: {"headers": place.sign(), "body": b'{"mode": "CNN", "imageBase64": "AAAA"}'},
     "bad_signature"),
    (lambda place: {"headers": place.sign() | {"X-Amz-Date": "20260101T000000Z"}}, "bad_signature"),
    (lambda place: {"headers": place.sign(service="s3")}, "bad_signature"),
    (lambda place: {"headers": place.sign(path="/live/get_scene?x=1"), "path": "/live/get_scene"},
     "bad_signature"),
    (lambda place: {"headers": place.sign(key=Credentials("stranger", "secret"))}, "not_allowed"),
    (lambda place: {"headers": place.sign(path="/live/other"), "path": "/live/other"}, "not_signed"),
    (lambda place: {"headers": place.sign(path="/other/get_scene"), "path": "/other/get_scene"},
     "not_signed"),
    (lambda place: {"headers": place.sign(method="GET"), "method": "GET"}, "not_signed"),
    (lambda place: {"headers": place.sign(method="DELETE"), "method": "DELETE"}, "not_signed"),
], ids=["unsigned", "other scheme", "wrong secret", "unknown key", "tampered body", "tampered date",
        "other service", "tampered query", "another user", "other path", "other stage", "GET", "DELETE"])
def test_what_is_not_signed_for_this_by_the_one_user_gets_403(change, expected, place):
    status, headers, answer = place.send(**change(place))
    assert (status, answer["error"]["code"]) == (403, expected) and set(answer) == {"error", "requestId"}
    assert headers["Content-Type"] == "application/json" and place.gateway.function.events == []


@pytest.mark.parametrize("ahead", [301, -301])
def test_a_signature_is_good_for_five_minutes(ahead, place, clock):
    signed = place.sign()
    clock.ahead = ahead * 0.99
    assert place.send(headers=signed)[0] == 200
    clock.ahead = ahead
    assert code(place.send(headers=signed)) == (403, "bad_signature")


def test_the_policy_allows_this_method_of_this_stage_and_nothing_else(place):
    _, policies = place.gateway.users[place.key.access_key]
    assert allowed(policies, "execute-api:Invoke", f"{place.arn}/POST/get_scene")
    for part, other in (("/live", "/test"), ("/live", "x/live"), (":123456789012:", ":210987654321:")):
        arn = place.arn.replace(part, other)
        assert arn != place.arn and not allowed(policies, "execute-api:Invoke", f"{arn}/POST/get_scene")
    for path in ("GET/get_scene", "POST/other", "POST/get_scene/more", "POST/", "*"):
        assert not allowed(policies, "execute-api:Invoke", f"{place.arn}/{path}")
    assert not allowed(policies, "execute-api:ManageConnections", f"{place.arn}/POST/get_scene")
    assert not allowed(policies, "s3:GetObject", f"arn:aws:s3:::{aws.BUCKET}/scene/model_CNN")


@pytest.mark.parametrize("size", [10 * 2**20 + 1, 6 * 2**20])
def test_too_large_a_request_gets_413(size, place):
    body = b'"' + b"A" * (size - 2) + b'"'
    assert code(place.send(body=body, headers=place.sign(body=body))) == (413, "photo_too_large")
    assert place.gateway.function.events == []


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png"])
def test_a_photo_as_the_body_arrives_as_it_is(kind, place):
    photo = bytes(range(256)) * 10
    path = "/live/get_scene?mode=FCNN"
    signed = place.sign(path=path, body=photo, kind=kind)
    assert place.send(path=path, body=photo, headers=signed)[0] == 200
    event, = place.gateway.function.events
    assert event["isBase64Encoded"] and base64.b64decode(event["body"]) == photo
    assert event["queryStringParameters"] == {"mode": "FCNN"}
    other = path.replace("FCNN", "CNN")
    assert code(place.send(path=other, body=photo, headers=signed)) == (403, "bad_signature")


def test_without_an_origin_no_page_may_call(place):
    answer = place.send("OPTIONS", headers={"Origin": "https://example.com"})
    assert code(answer) == (403, "not_signed")
    for _, headers, _ in answer, place.send(headers=place.sign()), place.send():
        assert "Access-Control-Allow-Origin" not in headers


@pytest.fixture
def cors(place, clock):
    """The same endpoint with `up --cors https://example.com`."""
    gateway = Gateway(TEMPLATE, place.gateway.users, place.arn, place.gateway.function, rate=5, burst=1,
                      clock=clock, cors="https://example.com")
    before, place.gateway = place.gateway, gateway
    yield place
    gateway.close()
    place.gateway = before


def test_pages_of_the_origin_may_call_after_their_question(cors):
    status, headers, answer = cors.send("OPTIONS", body=None, headers={
        "Origin": "https://example.com", "Access-Control-Request-Method": "POST"})
    assert (status, answer) == (204, None)
    assert headers["Access-Control-Allow-Origin"] == "https://example.com"
    assert headers["Access-Control-Allow-Methods"] == "POST"
    allowed = set(headers["Access-Control-Allow-Headers"].lower().split(","))
    assert {name.lower() for name in cors.sign()} <= allowed | {"host"}, "what a signed request carries"
    assert cors.gateway.function.events == [], "the question costs no call"
    assert cors.send(headers=cors.sign())[0] == 200
    throttled = cors.send(headers=cors.sign())
    assert code(throttled) == (429, "too_many_requests") and throttled[1]["Retry-After"] == "1"
    for refused in throttled, cors.send(), cors.send(path="/live/other"), cors.send(method="GET"):
        assert refused[1]["Access-Control-Allow-Origin"] == "https://example.com"


def test_too_many_requests_get_429_until_it_is_quieter(place, clock):
    answers = [place.send(headers=place.sign()) for _ in range(30)]
    assert [answer[0] for answer in answers[:10]] == 10 * [200]
    refused = [answer for answer in answers if answer[0] != 200]
    assert refused and {code(answer) for answer in refused} == {(429, "too_many_requests")}
    assert refused[0][1]["Retry-After"] == "1" and len(place.gateway.function.events) == 30 - len(refused)
    clock.ahead = 2
    assert place.send(headers=place.sign())[0] == 200


def fails(error):
    def does(event):
        raise error

    return does


@pytest.mark.parametrize(("does", "expected"), [
    (fails(TimeoutError()), (504, "timeout")),
    (fails(RuntimeError("out of memory")), (504, "internal_error")),
    (lambda event: {"no": "answer"}, (504, "internal_error")),
], ids=["slow", "crashed", "no answer"])
def test_a_function_that_fails_gets_our_words(does, expected, place):
    place.gateway.function.does = does
    assert code(place.send(headers=place.sign())) == expected


# curl and our commands as clients

@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_signs_as_the_readme_has_it(place, tmp_path):
    place.gateway.function.does = answers
    (tmp_path / "request.json").write_text(json.dumps(REQUEST_OCEAN))
    key = f"{place.key.access_key}:{place.key.secret_key}"
    command = ["curl", "-sS", "--aws-sigv4", f"aws:amz:{aws.REGION}:execute-api", "--user", key,
               "-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path}/request.json",
               place.gateway.url]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer.get("scene") == "ocean", answer


@pytest.fixture
def run(place, monkeypatch):
    """Runs a command in this process."""
    for name, value in aws.environment(place.folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands, "PAUSE", 0.01)
    return lambda *arguments: commands.run(commands.parse(list(map(str, arguments))))


def answers(event):
    """Answers 200 to any request."""
    answer = {"scene": "ocean", "probabilities": {"ocean": 0.75, "road": 0.25}, "mode": "CNN",
              "model": "0123456789ab", "requestId": "1"}
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(answer)}


def test_invoke_prints_what_predict_prints(run, place, capsys):
    place.gateway.function.does = answers
    run("invoke", OCEAN, "--profile", "scene")
    assert capsys.readouterr().out == f"{OCEAN}: ocean\n   75.00%  ocean\n   25.00%  road\n"
    event, = place.gateway.function.events
    assert json.loads(event["body"]) == REQUEST_OCEAN


def test_invoke_says_why_it_was_refused(run, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "admin")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a guess")
    refused = r"The endpoint refused: 403 bad_signature\. The signature does not match"
    words = rf"^{refused} .* \(request [-0-9a-f]{{36}}\)$"
    with pytest.raises(UserError, match=words):
        run("invoke", OCEAN)


@pytest.mark.parametrize(("does", "words"), [
    (lambda event: {"statusCode": 500, "headers": {}, "body": "<html>"},
     r"^The endpoint refused: 500 Internal Server Error\.$"),
    (lambda event: {"statusCode": 200, "headers": {}, "body": "<html>"},
     r"^No answer from http://127\.0\.0\.1:\d+/live/get_scene: Exp"),
])
def test_an_answer_that_is_not_ours_gets_a_sentence(does, words, run, place):
    place.gateway.function.does = does
    with pytest.raises(UserError, match=words):
        run("invoke", OCEAN)


def versions():
    return aws.client("s3").list_object_versions(Bucket=aws.BUCKET, Prefix="scene/model_CNN")["Versions"]


def current_model():
    return aws.client("s3").get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")["Body"].read()


def serves(first):
    """A function that answers three requests with the model `first`, and the rest with the bucket's model."""
    left = [first] * 3

    def does(event):
        model = left.pop() if left else hashlib.sha256(current_model()).hexdigest()[:12]
        return {"statusCode": 200, "headers": {}, "body": json.dumps({"model": model})}

    return does


def test_model_waits_until_it_answers_and_rollback_undoes_it(run, place, models, tmp_path, capsys):
    old = (models / "model_CNN").read_bytes()
    place.gateway.function.does = serves("000000000000")
    new = tmp_path / "better"
    network, card = modelfile.load(old)
    modelfile.save(new, network, card | {"classes": card["classes"][::-1]})
    run("model", new)
    assert len(place.gateway.function.events) == 4 and len(versions()) == 2
    assert re.search(r"^Uploaded model [0-9a-f]{12} \(CNN\)\.", capsys.readouterr().out)
    for expected in (old, new.read_bytes(), old):           # a second rollback undoes the first
        place.gateway.function.does = serves("000000000000")
        place.gateway.tokens = place.gateway.burst          # the test sends requests faster than people would
        run("model", "--rollback", "CNN")
        assert current_model() == expected
    assert len(versions()) == 5, "a version was lost"
    with pytest.raises(UserError, match="^There is no FCNN model before"):
        run("model", "--rollback", "FCNN")


def refuses(status, code):
    error = {"error": {"code": code, "message": "No."}, "requestId": "1"}
    return {"statusCode": status, "headers": {}, "body": json.dumps(error)}


def test_model_waits_through_what_may_pass(run, place, models, capsys):
    """A throttled call, S3 at a bad moment, a crash: none of them ends the command."""
    answers = [refuses(429, "too_many_requests"), refuses(503, "storage_unreachable"), None,
               refuses(500, "x"), refuses(503, "model_missing")]
    last = serves("000000000000")
    place.gateway.function.does = lambda event: answers.pop(0) if answers else last(event)
    place.gateway.tokens = 3                # and the gateway's own 429
    run("model", models / "model_CNN")
    assert answers == []
    said = capsys.readouterr().out
    assert "This is proven for one sandbox of the function. Others that were already running may" in said
    until = re.search(r"with the model before until (\d\d:\d\d:\d\d)\.", said)[1]
    assert until != time.strftime("%H:%M:%S")


@pytest.mark.parametrize(("status", "words"), [(400, "bad_mode"), (403, "not_allowed")])
def test_what_cannot_pass_ends_the_wait_at_once(status, words, run, place, models):
    place.gateway.function.does = lambda event: refuses(status, words)
    with pytest.raises(UserError, match=f"The endpoint refused: {status} {words}"):
        run("model", models / "model_CNN")
    assert len(place.gateway.function.events) == 1


def test_the_wait_is_the_functions_refresh():
    """The constant is in the handler, which only AWS can import."""
    source = (aws.ROOT / "lambda/get_scene.py").read_text(encoding="utf-8")
    assert re.search(r"^REFRESH = (\d+)", source, re.MULTILINE)[1] == str(commands.REFRESH)


def test_key_waits_until_aws_knows_the_new_key(place, monkeypatch, capsys):
    monkeypatch.setattr(commands, "PAUSE", 0.01)
    values = {"aws_access_key_id": "NEW", "aws_secret_access_key": "secret", "region": aws.REGION,
              "scene_url": place.gateway.url}
    place.gateway.function.does = lambda event: refuses(400, "missing_field")
    known = iter([False, False, True])

    def sleep(seconds):
        if next(known):
            place.gateway.users["NEW"] = ("secret", place.gateway.users["admin"][1])

    monkeypatch.setattr(deployment, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    commands.wait_for_key(values)
    assert capsys.readouterr().out == "" and len(place.gateway.function.events) == 1
    del place.gateway.users["NEW"]
    monkeypatch.undo()
    monkeypatch.setattr(commands, "NEW_KEY", 0)
    monkeypatch.setattr(commands, "PAUSE", 0)
    commands.wait_for_key(values)
    assert "AWS does not know the new key everywhere yet" in capsys.readouterr().out
    commands.wait_for_key(values | {"scene_url": "http://127.0.0.1:9/"})
    assert capsys.readouterr().out == ""


def test_a_model_that_does_not_come_into_service_is_told(run, place, models, monkeypatch):
    monkeypatch.setattr(commands, "PATIENCE", 0.1)
    place.gateway.tokens = place.gateway.burst          # not those that an earlier test has left
    answer = {"statusCode": 200, "headers": {}, "body": '{"model": "000000000000"}'}
    place.gateway.function.does = lambda event: answer
    with pytest.raises(UserError, match="^The endpoint still answers with model 000000000000: see why with"):
        run("model", models / "model_FCNN")


def test_what_is_no_model_is_not_uploaded(run, place):
    before = len(versions())
    with pytest.raises(UserError, match="ocean_000.jpg is not a usable model: "):
        run("model", OCEAN)
    assert len(versions()) == before


# The whole way

@pytest.fixture(scope="module")
def real(tmp_path_factory, bundle, make):
    """The deployed zips in AWS's own runtime client, with the template's environment and the role's keys."""
    place = Place(tmp_path_factory.mktemp("person"), bundle, None)
    keys = aws.assume_function_role()
    configuration = aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]
    function = make(AWS_ENDPOINT_URL_S3=aws.url(), AWS_ACCESS_KEY_ID=keys["AccessKeyId"],
                    AWS_SECRET_ACCESS_KEY=keys["SecretAccessKey"], AWS_SESSION_TOKEN=keys["SessionToken"],
                    **configuration["Environment"]["Variables"])

    def call(event):
        result = function.invoke(event)
        assert not result.failed, result.payload
        return result.payload

    place.gateway.function = call
    with function:
        yield place
    place.gateway.close()


@pytest.mark.parametrize("mode", DEPLOYED)
def test_a_photo_goes_all_the_way_and_its_scene_comes_back(mode, real, models):
    expected = Classifier.open(models / f"model_{mode}").classify(OCEAN.read_bytes())
    lines = real.line("invoke", OCEAN, "--mode", mode, "--profile", "scene").splitlines()
    assert lines[0] == f"{OCEAN}: {next(iter(expected))}"
    assert lines[1:] == [f"  {p:7.2%}  {name}" for name, p in expected.items()]


def test_an_error_of_the_handler_comes_back_as_a_sentence(real, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    result = real.line("invoke", tmp_path / "x.jpg", "--profile", "scene", check=False)
    assert result.returncode == 2
    words = r"The endpoint refused: 400 damaged_photo\. .+ \(request [-0-9a-f]{36}\)\n"
    assert re.fullmatch(words, result.stderr)


def test_the_answer_carries_the_gateways_request_id(real):
    body = json.dumps(REQUEST_OCEAN).encode()
    status, headers, answer = real.send(body=body, headers=real.sign(body=body))
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert re.fullmatch("[-0-9a-f]{36}", answer["requestId"])
    assert answer["model"] in real.line("status")


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_sends_a_photo_as_the_body(real, models):
    key = f"{real.key.access_key}:{real.key.secret_key}"
    command = ["curl", "-sS", "--aws-sigv4", f"aws:amz:{aws.REGION}:execute-api", "--user", key,
               "-H", "Content-Type: image/jpeg", "--data-binary", f"@{OCEAN}", f"{real.gateway.url}?mode=CNN"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    expected = Classifier.open(models / "model_CNN").classify(OCEAN.read_bytes())
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
