"""One deployment on AWS: the endpoint's stack, the bucket's stack, the bucket's objects, and signed requests.

It keeps no local state. Each command reads its input from AWS, so an interrupted one can simply be run again.

Next: render.py
"""

import base64
import functools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import boto3
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.model import OperationModel

from cloudformation import line
from cloudformation.stack import Stack
from cloudformation.store import Store
from scene.errors import UserError

ENDPOINT = "Scene's endpoint"               # how the description of each template begins
BUCKET = "Scene's bucket"
BUCKET_STACK = "-bucket"                    # after the deployment's name
ALIAS = "live"                              # the alias of the function that the endpoint calls
PASSING = (429, 500, 502, 503, 504)         # statuses that can be over in a moment
UNKNOWN = ("not_signed", "bad_signature", "not_allowed")        # what a key gets that AWS does not know yet


class Refused(UserError):
    """The endpoint's refusal of a request: the HTTP status and the error code ("" if it is not ours)."""

    def __init__(self, message: str, status: int, code: str = ""):
        super().__init__(message)
        self.status = status
        self.code = code


class Deployment:
    """The deployment `name` in a region, with the credentials of a profile or those that boto3 finds."""

    def __init__(self, name: str, region: str | None, profile: str | None):
        core = botocore.session.Session(profile=profile)
        self.session = boto3.Session(botocore_session=core, region_name=region)
        self.name = name
        self.region = self.session.region_name
        self.profile = core.get_scoped_config()
        if not self.region:
            raise UserError("No AWS region is set: add --region, with eu-central-1 for example, "
                            "or set AWS_DEFAULT_REGION.")
        self.credentials_file = Path(core.get_config_variable("credentials_file")).expanduser()
        self.client = functools.cache(self.make_client)             # one per service: they are slow to create
        self.stack = Stack(self.client("cloudformation"), name, ENDPOINT)
        self.bucket_stack = Stack(self.client("cloudformation"), name + BUCKET_STACK, BUCKET)
        self.log_groups = {"function": f"/aws/lambda/{name}-get_scene", "gateway": f"/aws/apigateway/{name}"}

    def make_client(self, service: str) -> BaseClient:
        client = self.session.client(service)
        if service == "s3":
            # In every call: a bucket of the expected name could belong to somebody else.
            client.meta.events.register("provide-client-params.s3", self.expect_owner)
        return client

    def expect_owner(self, params: dict, model: OperationModel, **_) -> None:
        if "ExpectedBucketOwner" in model.input_shape.members:
            params["ExpectedBucketOwner"] = self.account

    @functools.cached_property
    def account(self) -> str:
        """The number of the account that the credentials belong to."""
        return self.client("sts").get_caller_identity()["Account"]

    @property
    def default_bucket(self) -> str:
        return f"{self.name}-{self.account}-{self.region}"

    @property
    def outputs(self) -> dict[str, str]:
        """The outputs of the endpoint's stack. Raises UserError if it is not up."""
        outputs = self.stack.outputs
        if not outputs:
            raise UserError(f"There is no stack {self.name} in {self.region}: run `{line('up')}` first, "
                            "or name another stack with --stack and --region.")
        return outputs

    def store(self, bucket: str | None = None) -> Store:
        """The objects in a bucket, by default in that of the endpoint's stack. Raises UserError."""
        return Store(self.client("s3"), bucket or self.outputs["Bucket"], self.name)

    def users(self) -> list[str]:
        """The IAM users of the deployment: its caller, and those that an earlier change of --user left."""
        iam = self.client("iam")
        pages = iam.get_paginator("list_users").paginate(PathPrefix=f"/scene/{self.name}/{self.region}/")
        found = {user["UserName"] for page in pages for user in page["Users"]}
        caller = self.stack.outputs.get("Caller")
        if caller and exists(iam.get_user, UserName=caller):
            found.add(caller)
        return sorted(found)

    def access_keys(self, user: str) -> list[dict]:
        """The access keys of a user, as IAM lists them."""
        return self.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]

    def delete_access_keys(self, user: str) -> None:
        for entry in self.access_keys(user):
            self.client("iam").delete_access_key(UserName=user, AccessKeyId=entry["AccessKeyId"])

    def call(self, event: dict, version: str = ALIAS) -> tuple[dict, bool]:
        """Invokes the function directly: -> (its answer, whether it failed to give one)."""
        response = self.client("lambda").invoke(
            FunctionName=self.outputs["Function"], Qualifier=version, Payload=json.dumps(event).encode())
        return json.load(response["Payload"]), "FunctionError" in response

    def ask(self, mode: str, data: bytes) -> dict:
        """Sends the bytes of a photo in a signed request: -> the endpoint's answer. Raises UserError."""
        credentials = self.session.get_credentials()
        if not credentials:
            raise NoCredentialsError
        body = json.dumps({"mode": mode, "imageBase64": base64.b64encode(data).decode()}).encode()
        url = self.profile.get("scene_url") or self.outputs["Endpoint"]
        return send(url, body, self.region, credentials)


def send(url: str, body: bytes, region: str, credentials: Credentials) -> dict:
    """Sends a signed request: -> the endpoint's answer. Raises Refused or UserError."""
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    SigV4Auth(credentials, "execute-api", region).add_auth(request)
    signed = urllib.request.Request(url, body, dict(request.headers))
    try:
        with urllib.request.urlopen(signed, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise refusal(error) from error
    except (OSError, ValueError) as error:
        raise UserError(f"No answer from {url}: {getattr(error, 'reason', error)}.") from error


def refusal(error: urllib.error.HTTPError) -> Refused:
    """The refusal in an HTTP error: with the endpoint's own words, if it sent any."""
    try:
        answer = json.load(error)
        code = answer["error"]["code"]
        message = answer["error"]["message"]
        words = f"The endpoint refused: {error.code} {code}. {message} (request {answer['requestId']})"
        return Refused(words, error.code, code)
    except (ValueError, TypeError, KeyError):
        return Refused(f"The endpoint refused: {error.code} {error.reason}.", error.code)


def keep_trying(request: Callable[[], dict], passing: Callable[[Refused], bool], seconds: float,
                pause: float) -> dict:
    """Sends a request again while its refusal may pass, for some seconds: -> the answer. Raises Refused."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return request()
        except Refused as error:
            if not passing(error) or time.monotonic() > deadline:
                raise
        time.sleep(pause)


def exists(call: Callable, **arguments) -> bool:
    """Whether a call to AWS finds its resource: False if AWS answers 404. Raises ClientError."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True
