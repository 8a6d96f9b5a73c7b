"""Rules of AWS that moto, cfn-lint and CloudFormation Guard do not check, each with its documentation.

    python -m tests.aws_rules FILE...          the faults of templates, for example of an older version

A check takes a template as a dict and yields its faults.
"""

import json
import re
import sys
from typing import NamedTuple

from cfnlint.decode import cfn_yaml

from cloudformation.render import IN_THE_SNAPSHOT
from tests.gateway import STATUS, listed

AWS = "https://docs.aws.amazon.com/"
TEMPLATES = f"{AWS}AWSCloudFormation/latest/TemplateReference/"
GATEWAY = f"{AWS}apigateway/latest/developerguide/"
NEW_ACCOUNT = 10                # concurrent executions of an account that is new
STARTS_AT = 200, 400, 500, 503  # statuses that the handler answers with, whatever the gateway does
IAM_NAMES = {"AWS::IAM::User": "UserName", "AWS::IAM::Role": "RoleName", "AWS::IAM::Group": "GroupName",
             "AWS::IAM::ManagedPolicy": "ManagedPolicyName"}
SNAPSHOT = ("RestApi", "Resource", "Method", "GatewayResponse")         # what an API's deployment consists of


def of_type(template, kind):
    """(logical name, properties) of each resource of a type."""
    return [(name, resource.get("Properties", {})) for name, resource in template["Resources"].items()
            if resource["Type"] == kind]


def parameters_of(template, value):
    """The parameters that a value refers to, through conditions, too."""
    text = json.dumps(value)
    for name in re.findall(r'"Fn::If": \["(\w+)"', text):
        text += json.dumps(template.get("Conditions", {}).get(name))
    names = set(re.findall(r'"Ref": "(\w+)"', text)) | set(re.findall(r"\$\{(\w+)}", text))
    return names & set(template.get("Parameters", {}))


def variables(template):
    """(logical name, environment variables) of each function that reads a bucket."""
    for name, values in of_type(template, "AWS::Lambda::Function"):
        found = values.get("Environment", {}).get("Variables", {})
        if "Bucket" in json.dumps(found):
            yield name, found


# Checks


def reserved_model_names(template):
    for name, values in of_type(template, "AWS::ApiGateway::Model"):
        if values.get("Name") in ("Error", "Empty"):
            yield f"{name}: every REST API already has a model called {values['Name']}"


def model_names_are_alphanumeric(template):
    for name, values in of_type(template, "AWS::ApiGateway::Model"):
        if not re.fullmatch("[A-Za-z0-9]+", values.get("Name", "x")):
            yield f"{name}: the name {values['Name']} is not alphanumeric"


def iam_names_are_global(template):
    for kind, field in IAM_NAMES.items():
        for name, values in of_type(template, kind):
            text = json.dumps(values.get(field, {"Ref": "AWS::StackName AWS::Region"}))
            if not ("AWS::StackName" in text and "AWS::Region" in text):
                yield f"{name}: another stack, or this one in another region, would have the same {field}"


def replaced_users_can_be_found(template):
    for name, values in of_type(template, "AWS::IAM::User"):
        found = "AWS::StackName" in str(values.get("Path"))
        if parameters_of(template, values.get("UserName")) and not found:
            yield f"{name}: a new UserName replaces it, and no path leads to the one before and its keys"


def the_accounts_role_outlives_the_stack(template):
    for name, values in of_type(template, "AWS::ApiGateway::Account"):
        role = template["Resources"][values["CloudWatchRoleArn"]["Fn::GetAtt"][0]]
        if not role.get("DeletionPolicy", "Delete").startswith("Retain"):
            yield f"{name}: other APIs lose their logs when the stack goes, and its role with it"


def a_new_account_can_serve_the_burst(template):
    burst = template.get("Parameters", {}).get("Burst", {}).get("Default", 0)
    if burst > NEW_ACCOUNT:
        yield f"Burst: {burst} requests at once, but a new account runs {NEW_ACCOUNT} functions at a time"


def the_buckets_owner_is_checked(template):
    for name, found in variables(template):
        if {"Ref": "AWS::AccountId"} not in found.values():
            yield f"{name}: it does not know which account must own its bucket"


def hosts_depend_on_the_partition(template):
    for name, found in variables(template):
        if {"Ref": "AWS::URLSuffix"} not in found.values():
            yield f"{name}: it cannot know S3's host outside of the partition aws"
    for name, resource in template["Resources"].items():
        # The principals of services end so in every partition.
        if re.search(r"(?<!lambda)(?<!apigateway)\.amazonaws\.com", json.dumps(resource)):
            yield f"{name}: amazonaws.com is another domain in other partitions"


def endpoints_call_a_version(template):
    for name, values in of_type(template, "AWS::ApiGateway::Method"):
        for target in re.findall(r"functions/\$\{([\w.]+)}", json.dumps(values["Integration"])):
            if template["Resources"][target.partition(".")[0]]["Type"] == "AWS::Lambda::Function":
                yield f"{name}: it calls $LATEST, whose code, layer and settings change one after the other"


def permissions_name_the_stage(template):
    for name, values in of_type(template, "AWS::Lambda::Permission"):
        if re.search(r"\}/\*/", json.dumps(values.get("SourceArn", "}/*/"))):
            yield f"{name}: any stage of the API may call the function"


def old_tls_is_refused(template):
    for name, values in of_type(template, "AWS::ApiGateway::RestApi"):
        if not re.match(r"SecurityPolicy_TLS13_1_[23]|TLS_1_2", str(values.get("SecurityPolicy"))):
            yield f"{name}: without a SecurityPolicy, a regional API accepts TLS 1.0"
        elif "SecurityPolicy_" in values["SecurityPolicy"] and "EndpointAccessMode" not in values:
            yield f"{name}: an enhanced security policy needs an EndpointAccessMode"


def every_status_is_documented(template):
    answered = {STATUS.get(values["ResponseType"]) for _, values in
                of_type(template, "AWS::ApiGateway::GatewayResponse")} - {None}
    for name, values in of_type(template, "AWS::ApiGateway::Method"):
        if values["Integration"]["Type"] == "AWS_PROXY":
            there = {int(each["StatusCode"]) for each in values["MethodResponses"]}
            if missing := (answered | set(STARTS_AT)) - there:
                yield f"{name}: no MethodResponses for {sorted(missing)}"


def the_access_log_says_why(template):
    for name, values in of_type(template, "AWS::ApiGateway::Stage"):
        log = values.get("AccessLogSetting", {}).get("Format", "")
        if "$context.error.message" not in log or "integrationStatus" not in log:
            yield f"{name}: a refusal or a throttled call is logged without its reason"


def functions_wait_for_their_permissions(template):
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Lambda::Function":
            role = resource["Properties"]["Role"]["Fn::GetAtt"][0]
            for policy, values in of_type(template, "AWS::IAM::Policy"):
                waits = policy in listed(resource.get("DependsOn", []))
                if {"Ref": role} in values.get("Roles", []) and not waits:
                    yield f"{name}: its first call can come before {policy}"


def parameters_reach_the_stage(template):
    for kind in SNAPSHOT:
        for name, values in of_type(template, f"AWS::ApiGateway::{kind}"):
            if unseen := parameters_of(template, values) - set(IN_THE_SNAPSHOT):
                yield f"{name}: a new value of {sorted(unseen)} would not be deployed to the stage"


def nothing_depends_on_a_conditional_resource(template):
    conditional = {name for name, resource in template["Resources"].items() if "Condition" in resource}
    for name, resource in template["Resources"].items():
        for other in conditional & set(listed(resource.get("DependsOn", []))):
            yield f"{name}: DependsOn {other}, which need not be there"


def buckets_outlive_their_replacement(template):
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::S3::Bucket" and resource.get("UpdateReplacePolicy") != "Retain":
            yield f"{name}: a new name replaces it, and its objects with it"


def quotas(template):
    for name, values in of_type(template, "AWS::Lambda::Function"):
        if len(json.dumps(values.get("Environment", {}))) > 4096:
            yield f"{name}: more than 4 kB of environment"
        if len(values.get("Description", "")) > 256:
            yield f"{name}: a description of more than 256 characters"
        if values.get("Timeout", 3) > 29:
            yield f"{name}: a timeout above the gateway's 29 seconds"
    for name, values in of_type(template, "AWS::IAM::Policy"):
        size = len(re.sub(r"\s", "", json.dumps(values["PolicyDocument"])))
        if size > (2048 if "Users" in values else 10_240):
            yield f"{name}: the policy is too large"
    if len(template["Resources"]) > 500:
        yield "more than 500 resources"


class Rule(NamedTuple):
    check: object
    documentation: str


LAMBDA = f"{AWS}lambda/latest/dg/"
RULES = [
    Rule(reserved_model_names, f"{AWS}cdk/api/v1/docs/@aws-cdk_aws-apigateway.ErrorModel.html"),
    Rule(model_names_are_alphanumeric, f"{AWS}apigateway/latest/api/API_CreateModel.html"),
    Rule(iam_names_are_global, f"{TEMPLATES}aws-resource-iam-user.html"),
    Rule(replaced_users_can_be_found, f"{AWS}IAM/latest/APIReference/API_DeleteUser.html"),
    Rule(the_accounts_role_outlives_the_stack, f"{TEMPLATES}aws-resource-apigateway-account.html"),
    Rule(a_new_account_can_serve_the_burst, f"{LAMBDA}gettingstarted-limits.html"),
    Rule(the_buckets_owner_is_checked, f"{AWS}AmazonS3/latest/userguide/bucket-owner-condition.html"),
    Rule(hosts_depend_on_the_partition, f"{TEMPLATES}pseudo-parameter-reference.html"),
    Rule(endpoints_call_a_version, f"{LAMBDA}configuration-versions.html"),
    Rule(permissions_name_the_stage,
         f"{GATEWAY}api-gateway-control-access-using-iam-policies-to-invoke-api.html"),
    Rule(old_tls_is_refused, f"{GATEWAY}apigateway-security-policies.html"),
    Rule(every_status_is_documented, f"{GATEWAY}supported-gateway-response-types.html"),
    Rule(the_access_log_says_why, f"{GATEWAY}api-gateway-variables-for-access-logging.html"),
    Rule(functions_wait_for_their_permissions, f"{TEMPLATES}aws-attribute-dependson.html"),
    Rule(parameters_reach_the_stage, f"{TEMPLATES}aws-resource-apigateway-deployment.html"),
    Rule(nothing_depends_on_a_conditional_resource, f"{TEMPLATES}aws-attribute-dependson.html"),
    Rule(buckets_outlive_their_replacement, f"{TEMPLATES}aws-resource-s3-bucket.html"),
    Rule(quotas, f"{LAMBDA}gettingstarted-limits.html"),
]


def faults(template):
    """The faults of a template, each with the documentation of its rule."""
    return [f"{fault} ({rule.documentation})" for rule in RULES for fault in rule.check(template)]


if __name__ == "__main__":
    found = [fault for path in sys.argv[1:] for fault in faults(cfn_yaml.load(path))]
    print("\n".join(found) or "no faults")
    sys.exit(bool(found))
