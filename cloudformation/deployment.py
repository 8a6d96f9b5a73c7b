"""One deployment on AWS: the endpoint's stack, the bucket's stack, the bucket's objects, and signed requests.

It keeps no local state. Each command reads its input from AWS, so an interrupted one can simply be run again.

Next: up.py
"""

import base64
import functools
import json
import urllib.error
import urllib.request
from collections.abc import Callable

import boto3
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError

from cloudformation import line
from cloudformation.stack import Stack
from cloudformation.store import Store
from scene.errors import UserError


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
        self.client = functools.cache(self.session.client)          # one per service: they are slow to create
        self.stack = Stack(self.client("cloudformation"), name)
        self.bucket_stack = Stack(self.client("cloudformation"), f"{name}-bucket")
        self.log_groups = {"function": f"/aws/lambda/{name}-get_scene", "gateway": f"/aws/apigateway/{name}"}

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

    def access_keys(self) -> list[dict]:
        """The access keys of the endpoint's user, as IAM lists them."""
        return self.client("iam").list_access_keys(UserName=self.outputs["Caller"])["AccessKeyMetadata"]

    def delete_access_keys(self) -> None:
        for entry in self.access_keys():
            self.client("iam").delete_access_key(UserName=entry["UserName"], AccessKeyId=entry["AccessKeyId"])

    def ask(self, mode: str, data: bytes) -> dict:
        """Sends the bytes of a photo in a signed request: -> the endpoint's answer. Raises UserError."""
        url = self.profile.get("scene_url") or self.outputs["Endpoint"]
        body = json.dumps({"mode": mode, "imageBase64": base64.b64encode(data).decode()}).encode()
        request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
        credentials = self.session.get_credentials()
        if not credentials:
            raise NoCredentialsError
        SigV4Auth(credentials, "execute-api", self.region).add_auth(request)
        signed = urllib.request.Request(url, body, dict(request.headers))
        try:
            with urllib.request.urlopen(signed, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise UserError(refusal(error)) from error
        except (OSError, ValueError) as error:
            raise UserError(f"No answer from {url}: {getattr(error, 'reason', error)}.") from error


def refusal(error: urllib.error.HTTPError) -> str:
    """The message for an HTTP error: the endpoint's own, if it sent one."""
    try:
        answer = json.load(error)
        code = answer["error"]["code"]
        message = answer["error"]["message"]
        return f"The endpoint refused: {error.code} {code}. {message} (request {answer['requestId']})"
    except (ValueError, TypeError, KeyError):
        return f"The endpoint refused: {error.code} {error.reason}."


def exists(call: Callable, **arguments) -> bool:
    """Whether a call to AWS finds its resource: False if AWS answers 404. Raises ClientError."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True
