"""The endpoint in AWS Lambda: `get_scene.handler`. Models come from S3, answers from answer/endpoint.py.

It takes an event of API Gateway's proxy integration and returns {"statusCode", "headers", "body"}. A direct
invocation with the object {"mode", "imageBase64"} gets the bare answer, which has "error" if it failed.

Environment:
    SCENE_BUCKET            the bucket that holds the models
    SCENE_KEY_<MODE>        the key of each mode's model (default: model_<MODE>)
    SCENE_ARRAYS            numpy (the default), or torch if a layer of your own has it
    AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN     set by Lambda, from the role
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
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from scene.answer import endpoint
from scene.answer.classifier import Classifier
from scene.answer.endpoint import Refusal
from scene.answer.modelfile import ModelFileError
from scene.models import MODES

REFRESH = 60                # seconds between checks whether a model has changed
MAX_MODEL = 100_000_000     # bytes
WAIT = 3                    # seconds for a connection, and for each piece of a response
PATIENCE = 10               # seconds for a whole response, retry included: the gateway gives up after 29
PATIENCE_REFRESH = 4        # the same while an older model can answer


class Credentials(NamedTuple):
    """The credentials that botocore's signer takes. Importing botocore's own class would take longer."""

    access_key: str
    secret_key: str
    token: str | None


class Bucket:
    """A bucket in S3. botocore only signs requests: boto3 would take more than twice as long to start."""

    def __init__(self, environment: Mapping[str, str]):
        self.region = environment.get("AWS_REGION") or setting(environment, "AWS_DEFAULT_REGION")
        self.credentials = Credentials(
            setting(environment, "AWS_ACCESS_KEY_ID"), setting(environment, "AWS_SECRET_ACCESS_KEY"),
            environment.get("AWS_SESSION_TOKEN"))
        server = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") \
            or f"https://s3.{self.region}.amazonaws.com"
        self.url = f"{server.rstrip('/')}/{setting(environment, 'SCENE_BUCKET')}/"

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
        request = AWSRequest("GET", self.url + quote(key), headers={"If-None-Match": etag} if etag else {})
        S3SigV4Auth(self.credentials, "s3", self.region).add_auth(request)
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
    code = re.search(rb"<Code>(\w+)</Code>", data)
    return f"S3 answered {status} {code[1].decode() if code else ''}".rstrip()


class ModelMissing(Exception):
    """The bucket has no such model, or the function has no permission to read it."""


@dataclass
class Kept:
    """A model in memory, the ETag of the object that was last checked, and the time of that check."""

    model: Classifier | None = None
    etag: str | None = None
    checked: float = 0


class Models:
    """The models of the bucket: fetched on first use, kept, and fetched again when they have changed."""

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic):
        self.bucket = Bucket(environment)
        self.clock = clock
        self.keys = {mode: environment.get(f"SCENE_KEY_{mode}") or f"model_{mode}" for mode in MODES}
        self.arrays = environment.get("SCENE_ARRAYS") or "numpy"
        if self.arrays not in ("numpy", "torch"):
            raise RuntimeError("SCENE_ARRAYS must be numpy or torch.")
        if self.arrays == "torch":
            import torch  # noqa: F401  without torch the function must not start
        self.kept = {mode: Kept() for mode in MODES}

    def find(self, mode: str) -> Classifier:
        """The model of a mode. A missing or bad new model never replaces a good one. Raises Refusal."""
        kept = self.kept[mode]
        if kept.model and self.clock() - kept.checked < REFRESH:
            return kept.model
        try:
            self.refresh(mode, kept)
        except Refusal as error:
            if not kept.model:
                raise
            failed = {"mode": mode, "code": error.code}
            endpoint.log({"refresh": failed, "error": endpoint.describe(error.__cause__)})
        kept.checked = self.clock()
        return kept.model

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
        if status in (403, 404):        # without permission to list the bucket, a missing key is a 403
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
        return model


def refusal(code: str, mode: str, reason: str) -> Refusal:
    return Refusal(code, f"The {mode} model {reason}.")


MODELS = Models(os.environ)
COLD = True


def handler(event, context):
    """Answers one event, as described above."""
    global COLD
    proxy = isinstance(event, dict) and isinstance(event.get("requestContext"), dict)
    given = event["requestContext"].get("requestId") if proxy else None
    request_id = given if given and isinstance(given, str) else context.aws_request_id
    status, answer, entry = endpoint.answer(body_of(event) if proxy else event, request_id, MODELS.find)
    endpoint.log(with_metrics(entry | {"cold": COLD, "function": context.function_name}))
    COLD = False
    if not proxy:
        return answer
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(answer)}


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
