"""The endpoint in AWS Lambda: `get_scene.handler`. Thin: the models come from S3, the answers from scene.endpoint.

It takes an event of API Gateway's proxy integration and answers {"statusCode", "headers", "body"}; or it is invoked directly with
the bare object {"mode", "imageBase64"}, and the answer is the bare object too: errors are told by their "error".

Environment:
    SCENE_BUCKET                        the bucket that holds the models
    SCENE_KEY_FCNN, SCENE_KEY_CNN       their keys: model_FCNN, model_CNN unless given
    SCENE_ARRAYS                        numpy, unless a layer of your own brings torch: then torch
    AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN     as Lambda sets them, from the function's role
    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL                                     an S3 elsewhere: for tests, or for a private endpoint
If one is wrong on its face, the function does not start, and the log says which. A caller cannot choose a bucket or a key.

Each request is one line of JSON on stdout: requestId, status, code (null if all is well), mode, model, scene, milliseconds {model, decode,
predict, total}, cold (true for the first request of a process); error {type, message, trace} where it is not the caller's fault.
The same line carries the metrics of the namespace Scene in CloudWatch's Embedded Metric Format: Latency (ms), ColdStart and Error (0 or
1) for each function, and Error for each function and code. A failed refresh of a model is a line of its own: refresh {mode, code}, error.
"""

import base64
import http.client
import json
import os
import re
import time
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from scene import endpoint
from scene.endpoint import Refusal
from scene.modelfile import ModelFileError
from scene.models import MODES

REFRESH = 60                # seconds between two looks whether a model has changed
MAX_MODEL = 100_000_000     # bytes
WAIT = 3                    # seconds for a connection, and for each piece of an answer
PATIENCE = 10               # seconds for a whole answer, retry included: the gateway gives up after 29
PATIENCE_REFRESH = 4        # the same while an older model is there to answer


class Credentials(NamedTuple):
    """What botocore's signer asks for: botocore.credentials has the same, and imports more."""

    access_key: str
    secret_key: str
    token: str | None


class Bucket:
    """A bucket in S3. Signing is left to botocore, the rest is the standard library: boto3 would take more than twice as long to start."""

    def __init__(self, environment):
        self.region = environment.get("AWS_REGION") or setting(environment, "AWS_DEFAULT_REGION")
        self.credentials = Credentials(setting(environment, "AWS_ACCESS_KEY_ID"), setting(environment, "AWS_SECRET_ACCESS_KEY"),
                                       environment.get("AWS_SESSION_TOKEN"))
        server = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or f"https://s3.{self.region}.amazonaws.com"
        self.url = f"{server.rstrip('/')}/{setting(environment, 'SCENE_BUCKET')}/"

    def get(self, key, etag, patience):
        """The object with this key, unless it still is the one with this ETag: -> (HTTP status, ETag, bytes).

        A second try if the first fails. Raises OSError or HTTPException.
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
            raise http.client.HTTPException(in_words(response.status, data))
        return response.status, response.headers["ETag"], data


def setting(environment, name):
    """An environment variable without which nothing works. Raises RuntimeError: Lambda logs it, and the function does not start."""
    if not environment.get(name):
        raise RuntimeError(f"{name} is not set: give it to the function as an environment variable.")
    return environment[name]


def read(response, deadline):
    """The body, if all of it comes in time, and in so many bytes: a piece may be small, but there is always a next one."""
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


def in_words(status, data):
    """What S3 answered, for the log: the code of its error only, since the rest of it can hold credentials."""
    code = re.search(rb"<Code>(\w+)</Code>", data)
    return f"S3 answered {status} {code[1].decode() if code else ''}".rstrip()


@dataclass
class Kept:
    """A model in memory, with the ETag of the object last looked at, and when that was."""

    model: endpoint.Model | None = None
    etag: str | None = None
    checked: float = 0


class Models:
    """The models of the bucket: fetched when first asked for, kept, and fetched again when the object has changed."""

    def __init__(self, environment, clock=time.monotonic):
        self.bucket, self.clock = Bucket(environment), clock
        self.keys = {mode: environment.get(f"SCENE_KEY_{mode}") or f"model_{mode}" for mode in MODES}
        self.arrays = environment.get("SCENE_ARRAYS") or "numpy"
        if self.arrays not in ("numpy", "torch"):
            raise RuntimeError("SCENE_ARRAYS must be numpy or torch.")
        if self.arrays == "torch":
            import torch  # noqa: F401  a function that lacks it had better not start
        self.kept = {mode: Kept() for mode in MODES}

    def find(self, mode):
        """The Model for a mode. A new one that is missing or bad never replaces one that works. Raises Refusal."""
        kept = self.kept[mode]
        if kept.model and self.clock() - kept.checked < REFRESH:
            return kept.model
        try:
            self.refresh(mode, kept)
        except Refusal as error:
            if not kept.model:
                raise
            endpoint.log({"refresh": {"mode": mode, "code": error.code}, "error": endpoint.describe(error.__cause__)})
        kept.checked = self.clock()
        return kept.model

    def refresh(self, mode, kept):
        """Fetches the model if it has changed. Raises Refusal."""
        try:
            status, etag, data = self.bucket.get(self.keys[mode], kept.etag, PATIENCE_REFRESH if kept.model else PATIENCE)
            if status == 304:
                return
            said = f"{in_words(status, data)} for {self.keys[mode]}"
            if status in (403, 404):                        # without the right to list the bucket, a missing key is a 403
                missing = refusal("model_missing", mode, "is not there: ask whoever runs this endpoint to put one in place")
                raise missing from LookupError(said)
            if status != 200:
                raise OSError(said)
            kept.etag = etag if kept.model else None        # with a good model to answer, a bad one is fetched once
            kept.model = self.load(data, mode)
            kept.etag = etag
        except Refusal:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise refusal("storage_unreachable", mode, "cannot be fetched at the moment: try again later") from error
        except Exception as error:                          # whatever the bytes did
            raise refusal("model_unreadable", mode, "cannot be used: ask whoever runs this endpoint to replace it") from error

    def load(self, data, mode):
        model = endpoint.load_model(data, self.arrays)
        if model.classifier.network.mode != mode:
            raise ModelFileError(f"it is a model of mode {model.classifier.network.mode}, not {mode}")
        return model


def refusal(code, mode, what):
    return Refusal(code, f"The {mode} model {what}.")


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


def body_of(event):
    """The bytes that were sent to API Gateway; none if the event was made up by hand, and badly."""
    body = event.get("body")
    try:
        return base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    except (AttributeError, TypeError, ValueError):
        return b""


def with_metrics(entry):
    """The log's entry of a request with its metrics.

    Source: CloudWatch's Embedded Metric Format specification: dimensions name members that hold text, the time is in milliseconds.
    """
    latency, cold, error = ({"Name": name, "Unit": unit} for name, unit in
                            (("Latency", "Milliseconds"), ("ColdStart", "Count"), ("Error", "Count")))
    directives = [{"Namespace": "Scene", "Dimensions": [["function"]], "Metrics": [latency, cold, error]}]
    if entry["code"]:
        directives.append({"Namespace": "Scene", "Dimensions": [["function", "code"]], "Metrics": [error]})
    return entry | {"Latency": entry["milliseconds"]["total"], "ColdStart": int(entry["cold"]), "Error": int(bool(entry["code"])),
                    "_aws": {"Timestamp": int(1000 * time.time()), "CloudWatchMetrics": directives}}
