"""The endpoint in AWS Lambda: `get_scene.handler`. Models come from S3, answers from answer/endpoint.py.

It takes an event of API Gateway's proxy integration and returns {"statusCode", "headers", "body"}. The body
is JSON or, with Content-Type image/…, the photo itself. Direct invocations get bare answers:

    {"mode", "imageBase64"}         the endpoint's answer, which has "error" if it failed
    {"warm": true}                  {"warm": {mode: its model, or an error code}}: loads every model. The
                                    events of schedules and warm-up plugins get the same answer.
    {"try": mode}                   {"model": name} or {"refused": reason}: whether this code can read the
                                    model at SCENE_CANDIDATE_KEY

Environment:
    SCENE_BUCKET            the bucket that holds the models
    SCENE_BUCKET_OWNER      the account that must own the bucket (default: any)
    SCENE_KEY_<MODE>        the key of each mode's model (default: model_<MODE>)
    SCENE_CANDIDATE_KEY     the key of a model that is only tried (default: candidate)
    SCENE_ARRAYS            numpy (the default), or torch if a layer of your own has it
    SCENE_URL_SUFFIX        the domain of AWS in this partition (default: amazonaws.com)
    SCENE_CORS_ORIGIN       the origin whose pages may read the answers (default: none)
    AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN     set by Lambda, from the role
    AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN       set instead, with SnapStart
    AWS_LAMBDA_INITIALIZATION_TYPE      set by Lambda. Where the initialisation is not part of a request
                                        (snap-start, provisioned-concurrency), it also loads the models
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL     another S3, for tests or a private endpoint
If one is missing or wrong, the function does not start, and the log says which. A caller can choose neither
bucket nor key.

Each request logs one line of JSON on stdout: requestId, status, code (null on success), mode, model, scene,
milliseconds {model, decode, predict, total}, cold (true for the first request of a process), and for a fault
that is not the caller's, error {type, message, trace}. The same line holds metrics in CloudWatch's Embedded
Metric Format, in the namespace Scene: Latency (ms), ColdStart and Error (0 or 1) per function, and Error per
function and code. A failed refresh of a model logs a line of its own: refresh {mode, code}, error.

Next: build.py
"""

import base64
import http.client
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from scene.answer import endpoint
from scene.answer.class_map import is_exact
from scene.answer.classifier import Classifier
from scene.answer.endpoint import MAX_MODEL, Refusal
from scene.answer.modelfile import ModelFileError
from scene.memory import return_freed
from scene.models import MODES
from scene.nn.fold import free_kernels

REFRESH = 60                # seconds between checks whether a model has changed
RETRY = 5                   # seconds between attempts to load a model while there is none
WAIT = 3                    # seconds for a connection, and for each piece of a response
PATIENCE = 10               # seconds for a whole response, retry included: the gateway gives up after 29
PATIENCE_REFRESH = 4        # the same while an older model can answer
EARLY = 300                 # seconds before their expiry at which credentials are fetched anew
WARM_UP = "aws.events", "aws.scheduler", "serverless-plugin-warmup"     # sources of warm-up events


class Credentials(NamedTuple):
    """The credentials that botocore's signer takes. Importing botocore's own class would take longer."""

    access_key: str
    secret_key: str
    token: str | None


class Role:
    """The credentials of the function's role. With SnapStart, they come from a server inside the sandbox."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = environment
        if environment.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start" \
                and not environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
            setting(environment, "AWS_ACCESS_KEY_ID")
            setting(environment, "AWS_SECRET_ACCESS_KEY")
        self.forget()

    def forget(self) -> None:
        self.kept = None
        self.until = 0.0

    def credentials(self) -> Credentials:
        """Raises OSError or HTTPException."""
        given = self.environment
        if given.get("AWS_ACCESS_KEY_ID"):
            return Credentials(given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"],
                               given.get("AWS_SESSION_TOKEN"))
        if not self.kept or time.time() > self.until:
            self.kept, self.until = fetch_credentials(given)
        return self.kept


def fetch_credentials(environment: Mapping[str, str]) -> tuple[Credentials, float]:
    """(credentials, the time at which to fetch new ones) of the container credentials' server."""
    url = urlsplit(environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", ""))
    connection = http.client.HTTPConnection(url.netloc, timeout=WAIT)
    try:
        token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        connection.request("GET", f"{url.path}?{url.query}" if url.query else url.path,
                           headers={"Authorization": token} if token else {})
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    try:
        found = json.loads(data)
        until = datetime.fromisoformat(found["Expiration"]).timestamp() - EARLY
        return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token")), until
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(f"the credentials' server answered {response.status} without credentials") from error


class Bucket:
    """A bucket in S3. botocore only signs requests: boto3 would take more than twice as long to start."""

    def __init__(self, environment: Mapping[str, str]):
        self.region = environment.get("AWS_REGION") or setting(environment, "AWS_DEFAULT_REGION")
        self.role = Role(environment)
        suffix = environment.get("SCENE_URL_SUFFIX") or "amazonaws.com"
        server = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") \
            or f"https://s3.{self.region}.{suffix}"
        self.url = f"{server.rstrip('/')}/{setting(environment, 'SCENE_BUCKET')}/"
        owner = environment.get("SCENE_BUCKET_OWNER")
        # Somebody else could own a bucket of this name, and its models would answer.
        self.headers = {"x-amz-expected-bucket-owner": owner} if owner else {}

    def get(self, key: str, etag: str | None, patience: float) -> tuple[int, str, bytes]:
        """(HTTP status, ETag, content) of an object, or 304 without content if its ETag is still `etag`.

        Retries once. Raises OSError or HTTPException.
        """
        deadline = time.monotonic() + patience
        try:
            return self.request(key, etag, deadline)
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            return self.request(key, etag, deadline)

    def request(self, key, etag, deadline):
        headers = self.headers | ({"If-None-Match": etag} if etag else {})
        request = AWSRequest("GET", self.url + quote(key), headers=headers)
        S3SigV4Auth(self.role.credentials(), "s3", self.region).add_auth(request)
        url = urlsplit(request.url)
        connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = connect(url.netloc, timeout=max(0.1, min(WAIT, deadline - time.monotonic())))
        try:
            connection.request("GET", url.path, headers=dict(request.headers.items()))
            response = connection.getresponse()
            data = read(response, deadline)
        finally:
            connection.close()
        if response.status >= 500:
            raise http.client.HTTPException(describe_response(response.status, data))
        return response.status, response.headers["ETag"], data


def setting(environment: Mapping[str, str], name: str) -> str:
    """A required environment variable. Raises RuntimeError: the start fails, and Lambda logs why."""
    if not environment.get(name):
        raise RuntimeError(f"{name} is not set: give it to the function as an environment variable.")
    return environment[name]


def read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, if it arrives before the deadline and is not over MAX_MODEL.

    The socket's time-out alone is not enough: it restarts with every piece.
    """
    data = bytearray()
    while piece := response.read1(1 << 16):
        data += piece
        if time.monotonic() > deadline:
            raise TimeoutError("S3 is too slow")
        if len(data) > MAX_MODEL:
            raise ModelFileError(f"it is larger than {MAX_MODEL} bytes")
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(data)


def describe_response(status: int, data: bytes) -> str:
    """S3's status and error code, for the log. The rest of an error response can hold credentials."""
    return f"S3 answered {status} {error_code(data)}".rstrip()


def error_code(data: bytes) -> str:
    """The code in an error response of S3, or ""."""
    code = re.search(rb"<Code>([\w.]+)</Code>", data)
    return code[1].decode() if code else ""


def is_missing(status: int, data: bytes) -> bool:
    """Whether S3 says that an object is not there.

    Without permission to list the bucket, a missing key is a 403 AccessDenied, as is one that may not be
    read. Other 403s, of a wrong clock, a bad key or a KMS key, say nothing about the object.
    """
    denied = status == 403 and error_code(data) == "AccessDenied" and b"kms" not in data.lower()
    return status == 404 or denied


class ModelMissing(Exception):
    """The bucket has no such model, or the function has no permission to read it."""


@dataclass
class Kept:
    """A model in memory, the ETag of the object last checked, the time of that check, and why it failed."""

    model: Classifier | None = None
    etag: str | None = None
    checked: float = float("-inf")
    refusal: Refusal | None = None


class Models:
    """The models of the bucket: fetched on first use, kept, and fetched again when they have changed."""

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic):
        self.bucket = Bucket(environment)
        self.clock = clock
        self.keys = {mode: environment.get(f"SCENE_KEY_{mode}") or f"model_{mode}" for mode in MODES}
        self.candidate = environment.get("SCENE_CANDIDATE_KEY") or "candidate"
        self.arrays = environment.get("SCENE_ARRAYS") or "numpy"
        if self.arrays not in ("numpy", "torch"):
            raise RuntimeError("SCENE_ARRAYS must be numpy or torch.")
        if self.arrays == "torch":
            import torch  # noqa: F401  without torch the function must not start
        self.kept = {mode: Kept() for mode in MODES}

    def find(self, mode: str) -> Classifier:
        """The model of a mode. A missing or bad new model never replaces a good one. Raises Refusal."""
        kept = self.kept[mode]
        if self.clock() - kept.checked >= (REFRESH if kept.model else RETRY):
            self.check(mode, kept)
        if not kept.model:
            raise kept.refusal.with_traceback(None)
        return kept.model

    def check(self, mode: str, kept: Kept) -> None:
        """Looks for a new model. Keeps the reason if that fails, and logs it if an older model can answer."""
        try:
            self.refresh(mode, kept)
            kept.refusal = None
        except Refusal as error:
            kept.refusal = error
            if kept.model:
                failed = {"mode": mode, "code": error.code}
                endpoint.log({"refresh": failed, "error": endpoint.describe(error.__cause__)})
        kept.checked = self.clock()

    def warm(self) -> dict[str, str]:
        """Loads every model: -> {mode: the model's name, or the code of the error}."""
        found = {}
        for mode in MODES:
            try:
                found[mode] = self.find(mode).name
            except Refusal as refusal:
                found[mode] = refusal.code
        return found

    def expire(self) -> None:
        """Makes the next request of each mode look for a new model, with new credentials."""
        self.bucket.role.forget()
        for kept in self.kept.values():
            kept.checked = float("-inf")

    def attempt(self, mode: str) -> dict[str, str]:
        """Whether this code can read the candidate: -> {"model": name} or {"refused": reason}."""
        try:
            status, _, data = self.bucket.get(self.candidate, None, PATIENCE)
            if status != 200:
                raise OSError(describe_response(status, data))
            return {"model": self.load(data, mode).name}
        except Exception as error:              # a bad model can cause any error
            return {"refused": str(error) or type(error).__name__}

    def refresh(self, mode: str, kept: Kept) -> None:
        """Calls `fetch`, and turns every failure into a Refusal."""
        try:
            self.fetch(mode, kept)
        except ModelMissing as error:
            reason = "is not there: ask the operator of this endpoint to add it"
            raise refusal("model_missing", mode, reason) from error
        except (OSError, http.client.HTTPException) as error:
            reason = "cannot be fetched at the moment: try again later"
            raise refusal("storage_unreachable", mode, reason) from error
        except Exception as error:              # a bad model can cause any error
            reason = "cannot be used: ask the operator of this endpoint to replace it"
            raise refusal("model_unreadable", mode, reason) from error

    def fetch(self, mode: str, kept: Kept) -> None:
        """Fetches the model if it has changed."""
        key = self.keys[mode]
        status, etag, data = self.bucket.get(key, kept.etag, PATIENCE_REFRESH if kept.model else PATIENCE)
        if status == 304:
            return
        said = f"{describe_response(status, data)} for {key}"
        if is_missing(status, data):
            raise ModelMissing(said)
        if status != 200:
            raise OSError(said)
        kept.etag = etag if kept.model else None    # a bad model is not fetched again if an older one answers
        kept.model = self.load(data, mode)
        kept.etag = etag

    def load(self, data: bytes, mode: str) -> Classifier:
        model = Classifier.load(data, self.arrays)
        if model.mode != mode:
            raise ModelFileError(f"it is a model of mode {model.mode}, not {mode}")
        if is_exact(model.network):         # its maps need no weights before their transformation
            free_kernels(model.network)     # the check was of a single photo, and so is every request
        return model


def refusal(code: str, mode: str, reason: str) -> Refusal:
    return Refusal(code, f"The {mode} model {reason}.")


return_freed()
MODELS = Models(os.environ)
COLD = True
HEADERS = {"Content-Type": "application/json"}
if ORIGIN := os.environ.get("SCENE_CORS_ORIGIN"):
    HEADERS["Access-Control-Allow-Origin"] = ORIGIN


def preload() -> None:
    """Loads the models. In a snapshot they grow old, so a restored sandbox looks for new ones."""
    endpoint.log({"preload": MODELS.warm()})
    if os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "snap-start":
        from snapshot_restore_py import register_after_restore  # part of Lambda's runtime

        register_after_restore(MODELS.expire)


if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") in ("snap-start", "provisioned-concurrency"):
    preload()


def handler(event, context):
    """Answers one event, as described above."""
    global COLD
    proxy = isinstance(event, dict) and isinstance(event.get("requestContext"), dict)
    if isinstance(event, dict) and not proxy and (answer := serve_operator(event)):
        endpoint.log(answer | {"cold": COLD, "function": context.function_name})
        COLD = False
        return answer
    given = event["requestContext"].get("requestId") if proxy else None
    request_id = given if given and isinstance(given, str) else context.aws_request_id
    status, answer, entry = endpoint.answer(received(event) if proxy else event, request_id, MODELS.find)
    endpoint.log(with_metrics(entry | {"cold": COLD, "function": context.function_name}))
    COLD = False
    return {"statusCode": status, "headers": HEADERS, "body": json.dumps(answer)} if proxy else answer


def serve_operator(event: dict) -> dict | None:
    """The answer to a direct invocation that is no request: a warm-up, or a model to try."""
    if event.get("warm") is True or event.get("source") in WARM_UP:
        return {"warm": MODELS.warm()}
    if set(event) == {"try"} and event["try"] in list(MODES):
        return MODELS.attempt(event["try"])
    return None


def received(event: dict) -> bytes | endpoint.Photo:
    """What the caller sent, as endpoint.answer takes it."""
    headers = {name.lower(): value for name, value in texts(event.get("headers")).items()}
    mode = texts(event.get("queryStringParameters")).get("mode", "")
    return endpoint.received(body_of(event), headers.get("content-type", ""), mode)


def texts(values: object) -> dict[str, str]:
    """The members of an object that are text. {} if it is none: an event can hold anything."""
    return {name: value for name, value in values.items() if isinstance(value, str)} \
        if isinstance(values, dict) else {}


def body_of(event: dict) -> bytes:
    """The bytes that API Gateway received, or none if the event is malformed."""
    body = event.get("body")
    try:
        return base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    except (AttributeError, TypeError, ValueError):
        return b""


def with_metrics(entry: dict) -> dict:
    """A request's log entry with its metrics.

    Source: CloudWatch's Embedded Metric Format specification. Dimensions name members that hold text, and the
    timestamp is in milliseconds.
    """
    latency, cold, error = ({"Name": name, "Unit": unit} for name, unit in
                            (("Latency", "Milliseconds"), ("ColdStart", "Count"), ("Error", "Count")))
    directives = [{"Namespace": "Scene", "Dimensions": [["function"]], "Metrics": [latency, cold, error]}]
    if entry["code"]:
        directives.append({"Namespace": "Scene", "Dimensions": [["function", "code"]], "Metrics": [error]})
    metrics = {"Latency": entry["milliseconds"]["total"], "ColdStart": int(entry["cold"]),
               "Error": int(bool(entry["code"]))}
    return entry | metrics | {"_aws": {"Timestamp": int(1000 * time.time()), "CloudWatchMetrics": directives}}
