"""tests/aws_rules.py: our templates keep AWS's rules, and each rule notices the fault that it is for."""

import re

import pytest
from cfnlint.decode import cfn_yaml

from cloudformation.render import template
from tests import aws
from tests.aws_rules import RULES, faults

ENDPOINT = template({})
BUCKET = (aws.ROOT / "cloudformation/bucket.yaml").read_text(encoding="utf-8")

PLANTED = {                 # for each rule: faults, as replacements in our templates. 1.4 had those marked so
    "reserved_model_names": [("Name: SceneError", "Name: Error"),       # 1.4
                             ("Name: SceneAnswer", "Name: Empty")],
    "model_names_are_alphanumeric": [("Name: SceneError", "Name: scene-error")],
    "iam_names_are_global": [
        ('!If [NamedUser, !Ref UserName, !Sub "${AWS::StackName}-${AWS::Region}-caller"]',       # 1.4
         "!Ref UserName"),
        ("-${AWS::Region}-caller", "-caller"),
        ('      Path: !Sub "/scene/logging', '      RoleName: logs\n      Path: !Sub "/scene/logging')],
    "replaced_users_can_be_found": [       # 1.4
        ('      Path: !Sub "/scene/${AWS::StackName}/${AWS::Region}/"\n', "")],
    "the_accounts_role_outlives_the_stack": [
        ("    DeletionPolicy: RetainExceptOnCreate\n    UpdateReplacePolicy: Delete\n", "")],       # 1.4
    "a_new_account_can_serve_the_burst": [(
        "    Default: 10\n    MinValue: 0\n    Description: How many requests may arrive at once",
        "    Default: 20\n    MinValue: 0\n    Description: How many requests may arrive at once")],  # 1.4
    "the_buckets_owner_is_checked": [("          SCENE_BUCKET_OWNER: !Ref AWS::AccountId\n", "")],       # 1.4
    "hosts_depend_on_the_partition": [("          SCENE_URL_SUFFIX: !Ref AWS::URLSuffix\n", ""),       # 1.4
                                      ("SCENE_URL_SUFFIX: !Ref AWS::URLSuffix",
                                       "S: !Ref AWS::URLSuffix\n          H: s3.amazonaws.com")],
    "endpoints_call_a_version": [("functions/${LiveVersion}/", "functions/${Function.Arn}/")],       # 1.4
    "permissions_name_the_stage": [('${Api}/live/POST/get_scene"\n\n  # The',       # 1.4
                                    '${Api}/*/POST/get_scene"\n\n  # The')],
    "old_tls_is_refused": [("SecurityPolicy: SecurityPolicy_TLS13_1_2_2021_06", "Tags: []"),       # 1.4
                           ("SecurityPolicy_TLS13_1_2_2021_06", "TLS_1_0"),
                           ("      EndpointAccessMode: STRICT ", "      # ")],
    "every_status_is_documented": [
        ('        - {StatusCode: "504", ResponseModels: {application/json: !Ref ErrorModel}}\n', ""),  # 1.4
        ('        - {StatusCode: "503", ResponseModels: {application/json: !Ref ErrorModel}}\n', "")],
    "the_access_log_says_why": [(', "reason": "$context.error.message"', ""),       # 1.4
                                ('"integration": "$context.integration.integrationStatus",', "")],
    "functions_wait_for_their_permissions": [("[FunctionLogs, FunctionPolicy]", "FunctionLogs")],       # 1.4
    "parameters_reach_the_stage": [
        ("Description: Scene, private to one IAM user", "Description: !Ref UserName")],
    "nothing_depends_on_a_conditional_resource": [
        ("      [Post, NotSigned,", "      [Post, Preflight, NotSigned,")],
    "buckets_outlive_their_replacement": [
        ("    UpdateReplacePolicy: Retain\n    Properties:\n      BucketName",
         "    Properties:\n      BucketName")],
    "quotas": [("Timeout: 20 ", "Timeout: 30 "), ("Description: Says which", f"Description: {300 * 'x'}")],
}


def rules_broken(text):
    return [rule.check.__name__ for rule in RULES if list(rule.check(cfn_yaml.loads(text)))]


@pytest.mark.parametrize("text", [ENDPOINT, BUCKET], ids=["endpoint", "bucket"])
def test_our_templates_keep_every_rule(text):
    assert faults(cfn_yaml.loads(text)) == []


@pytest.mark.parametrize(("name", "old", "new"), [
    (name, *change) for name, changes in PLANTED.items() for change in changes])
def test_a_planted_fault_is_found_by_its_rule_and_by_no_other(name, old, new):
    text = BUCKET if old in BUCKET and name.startswith("buckets") else ENDPOINT
    assert text.count(old) == 1, "the template has changed: plant the fault elsewhere"
    assert rules_broken(text.replace(old, new)) == [name]


def test_every_rule_has_a_planted_fault_and_a_page_of_aws():
    assert [rule.check.__name__ for rule in RULES] == list(PLANTED)
    for rule in RULES:
        assert re.fullmatch(r"https://docs\.aws\.amazon\.com/[\w/@.-]+\.html", rule.documentation)
