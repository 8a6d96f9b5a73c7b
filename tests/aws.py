"""AWS for the tests of cloudformation/: a moto server over HTTP.

moto 5.2.5 has these gaps, so the tests have them, too:
- It ignores these resources of our templates: BucketPolicy, Stage, Account, GatewayResponse, Model,
  MetricFilter, Permission. Of a Bucket it uses only the name. tests/test_template.py reads them in the
  templates, tests/gateway.py implements those of the gateway, and tests/aws_rules.py has AWS's rules.
- It drops a new function's layers and architecture, and a role's managed policies. It ignores Rules, and the
  Conditions of policies.
- It creates and deletes a stack within the call: no states in between, no events of resources, no failures.
  tests/test_cloudformation.py writes such states and events into moto's memory.
- Nothing is slow or eventually consistent.
- It runs no function without Docker. FUNCTION answers every invocation.
`patch` adds what our commands cannot do without: aliases, alarms, replaced users, owners of buckets.
"""

import functools
import json
import logging
import os
import urllib.request
from pathlib import Path

import boto3
from cfnlint.decode import cfn_yaml
from moto.apigateway.models import Method, RestAPI, apigateway_backends
from moto.awslambda.models import LambdaFunction, LambdaVersion, LayerVersion, lambda_backends
from moto.awslambda.responses import LambdaResponse
from moto.cloudformation import parsing
from moto.cloudformation.models import ChangeSet, Stack
from moto.cloudformation.responses import CloudFormationResponse
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.iam.models import Role, User, iam_backends
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from cloudformation.render import template
from scene.models import MODES

ROOT = Path(__file__).parent.parent
REGION = "eu-central-1"
ACCOUNT = "123456789012"
BUCKET = f"scene-{ACCOUNT}-{REGION}"
TEMPLATE = cfn_yaml.loads(template({}))
VARIABLES = TEMPLATE["Resources"]["Function"]["Properties"]["Environment"]["Variables"]
DEPLOYED = [mode for mode in MODES if f"SCENE_KEY_{mode}" in VARIABLES]         # the modes of the template


def works(event, version):
    """A function that starts and finds every model, whatever it is asked: -> (answer, whether it failed)."""
    return {"warm": dict.fromkeys(MODES, "0123456789ab")} if "warm" in event else {"model": "x"}, False


class Run:
    """Answers invocations. Tests may set `function`: (event, version) -> (answer, whether it failed)."""

    function = staticmethod(works)
    failures = []               # what DescribeEvents answers


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
    patch_cloudformation()
    patch_resources()
    patch_calls()


def patch_cloudformation():
    apply = ChangeSet.apply
    update = parsing.parse_and_update_resource
    layers = LambdaFunction._get_layers_data

    def apply_all(self):
        """A change set also changes the stack's outputs and parameters."""
        apply(self)
        self.stack.template = self.template
        self.stack._parse_template()
        self.stack.description = self.stack.template_dict.get("Description")
        self.stack.output_map = self.stack._create_output_map()

    def update_or_keep(name, resource, resources, **where):
        """Keeps resources that moto cannot update, and unmet conditions."""
        if resources[name] is None:
            return None
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


class Alias(CloudFormationModel):
    """A function's alias, which CloudFormation creates. Whoever moves it later moves it for good."""

    def __init__(self, arn):
        self.arn = self.physical_resource_id = arn

    cloudformation_type = staticmethod(lambda: "AWS::Lambda::Alias")
    cloudformation_name_type = staticmethod(lambda: None)

    @classmethod
    def create_from_cloudformation_json(cls, name, resource, account, region, **kwargs):
        values = resource["Properties"]
        version = str(values["FunctionVersion"])
        backend = lambda_backends[account][region]
        return cls(backend.create_alias(values["Name"], values["FunctionName"], version, "", None).arn)

    @classmethod
    def update_from_cloudformation_json(cls, original_resource, **kwargs):
        return original_resource

    def delete(self, account, region):
        """An alias goes with its function."""


class Alarm(CloudFormationModel):
    """An alarm, with its name and description only."""

    def __init__(self, name):
        self.physical_resource_id = name

    cloudformation_type = staticmethod(lambda: "AWS::CloudWatch::Alarm")
    cloudformation_name_type = staticmethod(lambda: None)

    @classmethod
    def create_from_cloudformation_json(cls, name, resource, account, region, **kwargs):
        values = resource["Properties"]
        cloudwatch_backends[account][region].put_metric_alarm(
            name, "Scene", "x", values["ComparisonOperator"], 1, 300, 1, "Sum", values["AlarmDescription"],
            [], [])
        return cls(name)

    @classmethod
    def update_from_cloudformation_json(cls, original_resource, **kwargs):
        return original_resource

    def delete(self, account, region):
        cloudwatch_backends[account][region].delete_alarms([self.physical_resource_id])


def patch_resources():
    """Adds to moto the resources that our commands depend on."""
    delete = parsing.ResourceMap.delete
    delete_it = Role.delete_from_cloudformation_json.__func__
    create_method = Method.create_from_cloudformation_json.__func__

    def replace_user(cls, original_resource, new_resource_name, cloudformation_json, account_id,
                     region_name):
        """A new name makes another user. AWS deletes the old one afterwards, unless it has keys."""
        backend = iam_backends[account_id]["aws"]
        values = cloudformation_json["Properties"]
        if values["UserName"] == original_resource.name:
            return original_resource
        user = backend.create_user(region_name, values["UserName"], path=values["Path"])
        if not original_resource.access_keys:
            original_resource.policies.clear()
            backend.delete_user(original_resource.name)
        return user

    def delete_user(self, account, region):
        if self.access_keys or self.policies:
            raise JsonRESTError("DeleteConflict", "Cannot delete entity, must delete its parts first.")
        iam_backends[account]["aws"].delete_user(self.name)

    def delete_role(cls, resource_name, cloudformation_json, account_id, region_name):
        """The policies of other stacks' users have no roles."""
        for policy in iam_backends[account_id]["aws"].inline_policies.values():
            policy.role_names = policy.role_names or []
        delete_it(cls, resource_name, cloudformation_json, account_id, region_name)

    def delete_unless_retained(self):
        """RetainExceptOnCreate is Retain, for a stack that was created."""
        for resource in self._resource_json_map.values():
            if resource.get("DeletionPolicy") == "RetainExceptOnCreate":
                resource["DeletionPolicy"] = "Retain"
        delete(self)

    def create_mock(cls, resource_name, cloudformation_json, *arguments, **more):
        """An integration with nothing behind it has neither method nor address."""
        properties = cloudformation_json["Properties"]
        properties["Integration"] = {"IntegrationHttpMethod": "", "Uri": ""} | properties["Integration"]
        return create_method(cls, resource_name, cloudformation_json, *arguments, **more)

    Role.delete_from_cloudformation_json = classmethod(delete_role)
    Method.create_from_cloudformation_json = classmethod(create_mock)
    User.update_from_cloudformation_json = classmethod(replace_user)
    User.delete = delete_user
    parsing.ResourceMap.delete = delete_unless_retained
    LambdaVersion.get_cfn_attribute = lambda self, name: self.version
    LambdaVersion.has_cfn_attr = classmethod(lambda cls, name: name == "Version")
    LambdaVersion.update_from_cloudformation_json = classmethod(
        lambda cls, original_resource, **kwargs: original_resource)


def patch_calls():
    """Makes moto's functions answer, and its S3 check the owner of a bucket."""
    def invoke(self):
        name = self.path.split("/")[-2]
        aliases = {alias.name: alias.function_version for alias in self.backend.list_aliases(name)}
        version = self._get_param("Qualifier", "$LATEST")
        answer, failed = Run.function(json.loads(self.body or "{}"), aliases.get(version, version))
        headers = {"x-amz-function-error": "Unhandled"} if failed else {}
        return 200, headers | {"content-type": "application/json"}, json.dumps(answer)

    def check_owner(respond):
        def checked(self, request, full_url, headers):
            expected = request.headers.get("x-amz-expected-bucket-owner")
            self.setup_class(request)
            name = self.parse_bucket_name_from_url(request, full_url)
            for account in s3_backends:
                if name in s3_backends[account]["aws"].buckets and expected not in (None, account):
                    return 403, {}, "<Error><Code>AccessDenied</Code><Message>No</Message></Error>"
            return respond(self, request, full_url, headers)

        return checked

    def describe_events(self):
        """The events of early validation, which moto has not."""
        return ActionResult({"OperationEvents": Run.failures})

    LambdaResponse.invoke = invoke
    CloudFormationResponse.describe_events = describe_events
    S3Response.bucket_response = check_owner(S3Response.bucket_response)
    S3Response.key_response = check_owner(S3Response.key_response)


def reset():
    """Empties the account."""
    Run.function = staticmethod(works)
    Run.failures = []
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
                   "OMP_NUM_THREADS": "1", "https_proxy": "http://127.0.0.1:9"}     # AWS is out of reach
