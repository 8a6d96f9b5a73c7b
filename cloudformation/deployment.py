"""All that one name stands for on AWS: the endpoint's stack, the bucket's stack, what lies in the bucket, and how to ask the endpoint.

Nothing about it is kept in a file here. Whatever a command has to know it reads from AWS, so an interrupted one can simply be run again.

Next: up.py
"""

import base64
import functools
import json
import urllib.error
import urllib.request

import boto3
import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError

from scene.command import UserError
from stack import Stack
from store import Store


class Deployment:
    """The deployment of a name in a region, seen with the credentials of a profile, or with those that boto3 finds."""

    def __init__(self, name, region, profile):
        core = botocore.session.Session(profile=profile)
        self.session = boto3.Session(botocore_session=core, region_name=region)
        self.name, self.region, self.profile = name, self.session.region_name, core.get_scoped_config()
        if not self.region:
            raise UserError("Which region of AWS? Add --region eu-central-1, say, or set AWS_DEFAULT_REGION.")
        self.client = functools.cache(self.session.client)          # one for each service: they are slow to make
        self.stack, self.bucket_stack = (Stack(self.client("cloudformation"), stack) for stack in (name, f"{name}-bucket"))
        self.log_groups = {"function": f"/aws/lambda/{name}-get_scene", "gateway": f"/aws/apigateway/{name}"}

    @property
    def outputs(self):
        """The outputs of the endpoint's stack. Raises UserError if it is not up."""
        outputs = self.stack.outputs
        if not outputs:
            where = f"stack {self.name} in {self.region}"
            raise UserError(f"There is no {where}: run `{line('up')}` first, or name another with --stack and --region.")
        return outputs

    def store(self, bucket=None):
        """What lies in a bucket; in that of the endpoint's stack if none is named. Raises UserError."""
        return Store(self.client("s3"), bucket or self.outputs["Bucket"], self.name)

    def access_keys(self):
        """The keys of the user who may ask, as IAM lists them."""
        return self.client("iam").list_access_keys(UserName=self.outputs["Caller"])["AccessKeyMetadata"]

    def delete_access_keys(self):
        for entry in self.access_keys():
            self.client("iam").delete_access_key(UserName=entry["UserName"], AccessKeyId=entry["AccessKeyId"])

    def ask(self, mode, data):
        """Sends the bytes of a photo, signed: -> the endpoint's answer. Raises UserError."""
        url = self.profile.get("scene_url") or self.outputs["Endpoint"]
        body = json.dumps({"mode": mode, "imageBase64": base64.b64encode(data).decode()}).encode()
        request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
        credentials = self.session.get_credentials()
        if not credentials:
            raise NoCredentialsError
        SigV4Auth(credentials, "execute-api", self.region).add_auth(request)
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, dict(request.headers)), timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise UserError(refusal(error)) from error
        except (OSError, ValueError) as error:
            raise UserError(f"No answer from {url}: {getattr(error, 'reason', error)}.") from error


def refusal(error):
    """The sentence for an HTTP status that is not 200: the endpoint's own, if it sent one."""
    try:
        answer = json.load(error)
        code, message = answer["error"]["code"], answer["error"]["message"]
        return f"The endpoint refused: {error.code} {code}. {message} (request {answer['requestId']})"
    except (ValueError, TypeError, KeyError):
        return f"The endpoint refused: {error.code} {error.reason}."


def exists(call, **arguments):
    """Whether AWS answers this call with something else than that there is no such thing."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def line(words):
    """What to type to run a command of deploy.py."""
    return f"python cloudformation/deploy.py {words}"
