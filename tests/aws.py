"""AWS for the tests of cloudformation/: a moto server over HTTP.

What moto 5.2.5 cannot show, and so no test here does:
- These resources of our templates it passes over without a word: BucketPolicy, Stage, Account, GatewayResponse, Model, Alarm, MetricFilter;
  of a Bucket it takes the name only. tests/test_template.py reads them in the templates, tests/gateway.py acts on those of the gateway.
- Layers of a new function are dropped, so is its architecture. Rules are ignored, policies are evaluated without their Conditions.
- A stack is made and deleted within the call: no states in between, no event of a resource, nothing ever fails. tests/test_deploy.py writes
  such states and events into moto's memory.
- Nothing is slow or eventually consistent.
"""

import functools
import logging
import os
import urllib.request
from pathlib import Path

import boto3
from moto.apigateway.models import RestAPI, apigateway_backends
from moto.awslambda.models import LambdaFunction, LayerVersion, lambda_backends
from moto.cloudformation import parsing
from moto.cloudformation.models import ChangeSet, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parent.parent
REGION = "eu-central-1"
ACCOUNT = "123456789012"
BUCKET = f"scene-{ACCOUNT}-{REGION}"


@functools.cache
def url():
    """The address of the moto server of this test session."""
    mend()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)       # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return f"http://127.0.0.1:{server.get_host_and_port()[1]}"


def mend():
    """Mends moto where it differs from AWS's documentation, and deploy.py could not get through."""
    apply, update, layers = ChangeSet.apply, parsing.parse_and_update_resource, LambdaFunction._get_layers_data

    def apply_all(self):
        """A change set changes the stack's outputs and parameters, too."""
        apply(self)
        self.stack.template = self.template
        self.stack._parse_template()
        self.stack.output_map = self.stack._create_output_map()

    def update_or_keep(name, resource, resources, **where):
        """A resource that moto cannot update stays; a user too, whom it would make again; and one whose condition is false is none."""
        if resources[name] is None or resource["Type"] == "AWS::IAM::User":
            return resources[name]
        return update(name, resource, resources, **where) or resources[name]

    def layers_by_arn(self, arns):
        """A reference to a layer is its ARN."""
        return layers(self, [getattr(arn, "arn", arn) for arn in arns])

    def parameter_list(self):
        """Parameters are told as text, lists with commas."""
        values = self.resource_map.resolved_parameters
        texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}
        return [{"ParameterKey": name, "ParameterValue": text} for name, text in texts.items()]

    def has_parameters(self, given):
        """A parameter given as it was by default is no change."""
        told = {each["ParameterKey"]: each["ParameterValue"] for each in self.parameter_list}
        return told | given == told

    def delete_api(cls, name, properties, account, region):
        """An API goes with its stack."""
        apigateway_backends[account][region].delete_rest_api(name)

    def delete_layer(self, account, region):
        """So does a layer."""
        lambda_backends[account][region].delete_layer_version(self.name, self.version)

    ChangeSet.apply, parsing.parse_and_update_resource, LambdaFunction._get_layers_data = apply_all, update_or_keep, layers_by_arn
    Stack.parameter_list, Stack.has_parameters = property(parameter_list), has_parameters
    RestAPI.delete_from_cloudformation_json = classmethod(delete_api)
    LayerVersion.delete, LayerVersion.cloudformation_name_type = delete_layer, staticmethod(lambda: "LayerName")
    # A change set without changes is made, and has failed; moto refuses to make some.
    CloudFormationResponse._validate_different_update = lambda *arguments: None


def reset():
    """An empty account."""
    urllib.request.urlopen(urllib.request.Request(f"{url()}/moto-api/reset", method="POST")).close()


@functools.cache
def client(service, key="admin", secret="secret", token=None):
    """A boto3 client of the moto server."""
    return boto3.client(service, REGION, endpoint_url=url(), aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token)


def environment(folder):
    """The environment of someone who has one profile, and nothing else of AWS: all files lie in `folder`."""
    credentials = Path(folder, "credentials")
    if not credentials.exists():
        credentials.write_text(f"[default]\naws_access_key_id = admin\naws_secret_access_key = secret\nregion = {REGION}\n")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return ours | {"AWS_ENDPOINT_URL": url(), "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
                   "AWS_CONFIG_FILE": str(Path(folder, "config")), "AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1"}
