"""AWS for the tests of cloudformation/: a moto server over HTTP.

moto 5.2.5 has these gaps, so the tests have them, too:
- It ignores these resources of our templates: BucketPolicy, Stage, Account, GatewayResponse, Model, Alarm,
  MetricFilter. Of a Bucket it uses only the name. tests/test_template.py reads them in the templates, and
  tests/gateway.py implements those of the gateway.
- It drops a new function's layers and architecture. It ignores Rules, and the Conditions of policies.
- It creates and deletes a stack within the call: no states in between, no events of resources, no failures.
  tests/test_cloudformation.py writes such states and events into moto's memory.
- Nothing is slow or eventually consistent.
"""

import functools
import logging
import os
import urllib.request
from pathlib import Path

import boto3
from cfnlint.decode import cfn_yaml
from moto.apigateway.models import RestAPI, apigateway_backends
from moto.awslambda.models import LambdaFunction, LayerVersion, lambda_backends
from moto.cloudformation import parsing
from moto.cloudformation.models import ChangeSet, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.server import ThreadedMotoServer

from scene.models import MODES

ROOT = Path(__file__).parent.parent
REGION = "eu-central-1"
ACCOUNT = "123456789012"
BUCKET = f"scene-{ACCOUNT}-{REGION}"
TEMPLATE = cfn_yaml.load(str(ROOT / "cloudformation/template.yaml"))
VARIABLES = TEMPLATE["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
DEPLOYED = [mode for mode in MODES if f"SCENE_KEY_{mode}" in VARIABLES]         # the modes of the template


@functools.cache
def url():
    """The address of the moto server of this test session."""
    patch()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)       # it logs a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return f"http://127.0.0.1:{server.get_host_and_port()[1]}"


def patch():
    """Patches moto where it differs from AWS's documentation in a way that would stop our commands."""
    apply = ChangeSet.apply
    update = parsing.parse_and_update_resource
    layers = LambdaFunction._get_layers_data

    def apply_all(self):
        """A change set also changes the stack's outputs and parameters."""
        apply(self)
        self.stack.template = self.template
        self.stack._parse_template()
        self.stack.output_map = self.stack._create_output_map()

    def update_or_keep(name, resource, resources, **where):
        """Keeps resources that moto cannot update, users that it would create again, and unmet conditions."""
        if resources[name] is None or resource["Type"] == "AWS::IAM::User":
            return resources[name]
        return update(name, resource, resources, **where) or resources[name]

    def layers_by_arn(self, arns):
        """A reference to a layer is its ARN."""
        return layers(self, [getattr(arn, "arn", arn) for arn in arns])

    def parameter_list(self):
        """Parameters are returned as text, lists with commas."""
        def text(value):
            return ",".join(value) if isinstance(value, list) else str(value)

        values = self.resource_map.resolved_parameters
        return [{"ParameterKey": name, "ParameterValue": text(value)} for name, value in values.items()]

    def has_parameters(self, given):
        """A parameter that is given its present value, which may be the default, is no change."""
        present = {each["ParameterKey"]: each["ParameterValue"] for each in self.parameter_list}
        return present | given == present

    def delete_api(cls, name, properties, account, region):
        """Deleting a stack deletes its API."""
        apigateway_backends[account][region].delete_rest_api(name)

    def delete_layer(self, account, region):
        """Deleting a stack deletes its layer."""
        lambda_backends[account][region].delete_layer_version(self.name, self.version)

    ChangeSet.apply = apply_all
    parsing.parse_and_update_resource = update_or_keep
    LambdaFunction._get_layers_data = layers_by_arn
    Stack.parameter_list = property(parameter_list)
    Stack.has_parameters = has_parameters
    RestAPI.delete_from_cloudformation_json = classmethod(delete_api)
    LayerVersion.delete = delete_layer
    LayerVersion.cloudformation_name_type = staticmethod(lambda: "LayerName")
    # AWS creates a change set without changes, with status FAILED. moto refuses to create some of them.
    CloudFormationResponse._validate_different_update = lambda *arguments: None


def reset():
    """Empties the account."""
    urllib.request.urlopen(urllib.request.Request(f"{url()}/moto-api/reset", method="POST")).close()


@functools.cache
def client(service, key="admin", secret="secret", token=None):
    """A boto3 client of the moto server."""
    return boto3.client(service, REGION, endpoint_url=url(), aws_access_key_id=key,
                        aws_secret_access_key=secret, aws_session_token=token)


def assume_function_role():
    """Temporary credentials of the role that the stack gave to the function."""
    role = next(role for role in client("iam").list_roles()["Roles"] if "FunctionRole" in role["RoleName"])
    return client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="test")["Credentials"]


def environment(folder):
    """The environment of a user with one AWS profile and no other AWS settings, all in `folder`."""
    credentials = Path(folder, "credentials")
    if not credentials.exists():
        credentials.write_text(
            f"[default]\naws_access_key_id = admin\naws_secret_access_key = secret\nregion = {REGION}\n")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return ours | {"AWS_ENDPOINT_URL": url(), "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
                   "AWS_CONFIG_FILE": str(Path(folder, "config")), "AWS_EC2_METADATA_DISABLED": "true",
                   "OMP_NUM_THREADS": "1"}
