"""The templates, checked by reading them. test_cloudformation.py and test_gateway.py deploy them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cfnlint.decode import cfn_yaml

from cloudformation import deployment, render
from scene.answer import openapi
from scene.answer.endpoint import STATUS as HANDLER_CODES
from scene.models import MODES
from tests import aws
from tests.aws import DEPLOYED, TEMPLATE
from tests.gateway import STATUS, Gateway, listed

FOLDER = aws.ROOT / "cloudformation"
BUCKET = cfn_yaml.load(str(FOLDER / "bucket.yaml"))
RESOURCES = TEMPLATE["Resources"]
GATEWAY_TYPES = ("Resource", "Method", "Model", "GatewayResponse")


def of_type(kind):
    return {name: resource for name, resource in RESOURCES.items() if resource["Type"] == kind}


def statements(name):
    return RESOURCES[name]["Properties"]["PolicyDocument"]["Statement"]


# template.yaml is edited by hand, and it lists the modes in two places.

def readable():
    """The ARNs of the models that the function may read."""
    may = [each["Fn::Sub"] for statement in statements("FunctionPolicy")
           if statement["Action"] == "s3:GetObject" for each in statement["Resource"]]
    return [arn for arn in may if not arn.endswith("/candidate")]


def modes_of_the_template():
    """{place: the modes there}."""
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    return {
        "Function, Environment, Variables":
            [name.removeprefix("SCENE_KEY_") for name in variables if name.startswith("SCENE_KEY_")],
        "FunctionPolicy, Resource of s3:GetObject": [arn.rpartition("/model_")[2] for arn in readable()],
    }


def lines_of(modes):
    """The lines for these modes in each of these places."""
    variables = [f'SCENE_KEY_{mode}: !Sub "${{AWS::StackName}}/model_{mode}"' for mode in modes]
    bucket = "arn:${AWS::Partition}:s3:::${Bucket}"
    objects = [f'- !Sub "{bucket}/${{AWS::StackName}}/model_{mode}"' for mode in modes]
    return [variables, objects]


def missing_lines(modes):
    """The lines that the template lacks if these are all the modes, each after its place."""
    missing = []
    for i, (place, there) in enumerate(modes_of_the_template().items()):
        if not set(modes) <= set(there):
            lines = [line for line in lines_of(modes)[i] if line not in lines_of(there)[i]]
            missing += [f"  {place}:\n    {line}" for line in lines]
    return missing


def test_the_template_has_every_mode():
    missing = missing_lines(MODES)
    assert not missing, "\n".join(
        ["cloudformation/template.yaml lacks a mode of scene.models.MODES. Add these lines:", *missing])


def test_the_template_has_no_mode_that_scene_lacks():
    assert {mode for modes in modes_of_the_template().values() for mode in modes} <= set(MODES)


def test_the_lines_for_a_further_mode_are_all_that_it_needs():
    """The same lines for the template's own modes are exactly those in which it names a mode."""
    text = (FOLDER / "template.yaml").read_text(encoding="utf-8")
    name = re.compile(rf"(?<![A-Za-z])({'|'.join(DEPLOYED)})(?![A-Za-z])")
    found = [line.strip() for line in text.splitlines() if name.search(line)]
    assert sorted(found) == sorted(line for lines in lines_of(DEPLOYED) for line in lines)
    assert len(missing_lines([*DEPLOYED, "NEW"])) == 2


def test_cfn_lint_finds_nothing_and_is_told_to_ignore_nothing(tmp_path):
    cfn_lint = Path(sys.executable).parent / "cfn-lint"
    files = [tmp_path / "rendered.yaml", FOLDER / "bucket.yaml"]
    files[0].write_text(render.template({}), encoding="utf-8")
    command = [cfn_lint, "--include-checks", "I", "--", *files]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    assert not any("cfn-lint" in file.read_text() for file in files)


def test_the_template_is_small_enough_to_be_sent_as_it_is():
    assert len(render.template({}).encode()) <= 51_200 - 100                  # bytes, CloudFormation's limit


def test_the_models_of_the_api_are_those_of_the_openapi_document():
    found = {}
    for model in of_type("AWS::ApiGateway::Model").values():
        schema = dict(model["Properties"]["Schema"])
        assert schema.pop("$schema") == "http://json-schema.org/draft-04/schema#"
        found[model["Properties"]["Name"]] = schema
    assert found == openapi.SCHEMAS


def test_a_field_that_is_added_there_is_in_the_template(monkeypatch):
    properties = openapi.SCHEMAS["SceneAnswer"]["properties"]
    monkeypatch.setitem(properties, "more", {"type": "boolean"})
    answer = cfn_yaml.loads(render.template({}))["Resources"]["AnswerModel"]["Properties"]["Schema"]
    assert answer["properties"]["more"] == {"type": "boolean"}
    document = openapi.document("https://x", openapi.of_the_gateway())
    assert document["components"]["schemas"]["SceneAnswer"]["properties"]["more"] == {"type": "boolean"}


def test_the_openapi_document_has_the_gateways_codes_and_statuses():
    codes = {}
    for response in of_type("AWS::ApiGateway::GatewayResponse").values():
        kind = response["Properties"]["ResponseType"]
        code = json.loads(response["Properties"]["ResponseTemplates"]["application/json"])["error"]["code"]
        codes[code] = STATUS.get(kind) or {"DEFAULT_4XX": 400, "DEFAULT_5XX": 500}[kind]
    assert codes == openapi.GATEWAY
    post = RESOURCES["Post"]["Properties"]["MethodResponses"]
    assert {int(each["StatusCode"]) for each in post} == {200, *openapi.of_the_gateway().values()}
    for each in post:
        model = "AnswerModel" if each["StatusCode"] == "200" else "ErrorModel"
        assert each["ResponseModels"] == {"application/json": {"Ref": model}}


def test_every_request_is_signed_but_the_question_before_it():
    """A browser asks without a signature whether it may send one. Nothing of ours answers that."""
    methods = {each["Properties"]["HttpMethod"]: each for each in of_type("AWS::ApiGateway::Method").values()}
    assert set(methods) == {"POST", "OPTIONS"}
    assert methods["POST"]["Properties"]["AuthorizationType"] == "AWS_IAM"
    assert methods["OPTIONS"]["Properties"]["Integration"]["Type"] == "MOCK"
    assert methods["OPTIONS"]["Condition"] == "Cors" and TEMPLATE["Parameters"]["CorsOrigin"]["Default"] == ""


def test_the_function_may_read_the_models_and_write_its_log():
    may = {(action, resource["Fn::Sub"]) for each in statements("FunctionPolicy")
           for action in listed(each["Action"]) for resource in listed(each["Resource"])}
    bucket = "arn:${AWS::Partition}:s3:::${Bucket}"
    log = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:${FunctionLogs}:*"
    keys = [f"model_{mode}" for mode in DEPLOYED] + ["candidate"]
    assert may == {("s3:GetObject", f"{bucket}/${{AWS::StackName}}/{key}") for key in keys} | {
        ("logs:CreateLogStream", log), ("logs:PutLogEvents", log)}
    assert set(RESOURCES["FunctionRole"]["Properties"]) == {"AssumeRolePolicyDocument"}
    assert set(RESOURCES["Caller"]["Properties"]) == {"UserName", "Path"}


def test_no_statement_allows_a_star():
    for name in of_type("AWS::IAM::Policy"):
        for each in statements(name):
            assert not [action for action in listed(each["Action"]) if "*" in action]
            assert "*" not in [resource["Fn::Sub"] for resource in listed(each["Resource"])]


def test_the_environment_names_the_objects_that_the_role_may_read():
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    keys = {variables[f"SCENE_KEY_{mode}"]["Fn::Sub"] for mode in DEPLOYED}
    assert {f"arn:${{AWS::Partition}}:s3:::${{Bucket}}/{key}" for key in keys} == set(readable())


def test_the_function_gives_up_before_the_gateway_does():
    assert RESOURCES["Function"]["Properties"]["Timeout"] < 29


def test_the_bucket_is_private_encrypted_versioned_and_speaks_tls_only():
    bucket = BUCKET["Resources"]["Bucket"]["Properties"]
    policy = BUCKET["Resources"]["OnlyTls"]["Properties"]["PolicyDocument"]
    blocks = bucket["PublicAccessBlockConfiguration"]
    assert set(blocks.values()) == {True} and len(blocks) == 4
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    encryption, = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    statement, = policy["Statement"]
    assert statement == {
        "Effect": "Deny", "Principal": "*", "Action": "s3:*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        "Resource": [{"Fn::GetAtt": ["Bucket", "Arn"]}, {"Fn::Sub": "${Bucket.Arn}/*"}]}


def test_logs_end_some_day_and_go_with_the_stack():
    groups = of_type("AWS::Logs::LogGroup")
    assert len(groups) == 2
    for group in groups.values():
        assert group["Properties"]["RetentionInDays"] == {"Ref": "LogDays"}
        assert group["DeletionPolicy"] == "Delete"
    assert TEMPLATE["Parameters"]["LogDays"]["Default"] == 30


def test_a_deployment_waits_for_all_that_it_is_a_snapshot_of():
    snapshot = {name for kind in GATEWAY_TYPES for name in of_type(f"AWS::ApiGateway::{kind}")}
    snapshot -= set(of_type("AWS::ApiGateway::Model"))
    taken, = of_type("AWS::ApiGateway::Deployment").values()
    waits = set(taken["DependsOn"]) | set(re.findall(r"\$\{(\w+)}", json.dumps(taken["Properties"])))
    assert waits | {RESOURCES["Post"]["Properties"]["ResourceId"]["Ref"]} == snapshot


def test_the_deployment_has_a_new_name_whenever_what_it_is_a_snapshot_of_changes(monkeypatch, tmp_path):
    """The template, the schemas of the models, and the parameters that the API depends on."""
    def name(**parameters):
        text = render.template(parameters)
        assert "Deployment0" not in text and text.count("!Ref Deployment") == 1
        return re.search(r"!Ref (Deployment\w+)", text)[1]

    names = [name(), name(Memory="512"), name(CorsOrigin=""), name(CorsOrigin="https://example.com")]
    monkeypatch.setitem(openapi.SCHEMAS["SceneAnswer"]["properties"], "more", {"type": "boolean"})
    names.append(name())
    monkeypatch.undo()
    text = (FOLDER / "template.yaml").read_text(encoding="utf-8")
    (tmp_path / "template.yaml").write_text(text + "# changed")
    monkeypatch.setattr(render, "HERE", tmp_path)
    names.append(name())
    assert names[0] == names[1] == names[2] and len(set(names)) == 4


def test_the_descriptions_say_whose_stacks_these_are():
    """By them our commands know them: stack.py changes and deletes no others."""
    assert TEMPLATE["Description"].startswith(deployment.ENDPOINT)
    assert BUCKET["Description"].startswith(deployment.BUCKET)


def test_the_stage_waits_for_the_account_to_have_a_role_for_its_logs():
    assert "LoggingAccount" in json.dumps(RESOURCES["Live"]["Properties"])
    assert RESOURCES["LoggingAccount"]["DependsOn"] == "Api"
    conditional = {name for name, resource in RESOURCES.items() if "Condition" in resource}
    for name, resource in RESOURCES.items():
        needed = set(listed(resource.get("DependsOn", [])))
        assert not conditional & needed, f"{name} would not be created where that condition is false"


def test_the_stage_throttles_and_never_logs_bodies():
    every, = RESOURCES["Live"]["Properties"]["MethodSettings"]
    assert (every["ResourcePath"], every["HttpMethod"]) == ("/*", "*")
    assert every["ThrottlingRateLimit"] == {"Ref": "RequestsPerSecond"}
    assert every["ThrottlingBurstLimit"] == {"Ref": "Burst"}
    assert every["DataTraceEnabled"] is False


def test_the_access_log_is_json_and_the_filter_for_429_finds_it():
    log = RESOURCES["Live"]["Properties"]["AccessLogSetting"]["Format"]
    line = json.loads(log.replace("$context.status", "429"))
    pattern = RESOURCES["Throttled"]["Properties"]["FilterPattern"]
    field, value = re.fullmatch(r'\{ \$\.(\w+) = "(\d+)" }', pattern).groups()
    assert line[field] == value


@pytest.fixture(scope="module")
def gateway():
    gateway = Gateway(TEMPLATE, {}, "arn:aws:execute-api:eu-central-1:123456789012:api/live", None)
    yield gateway
    gateway.close()


@pytest.mark.parametrize("kind", STATUS)
def test_every_refusal_of_the_gateway_has_our_shape_and_its_own_status(kind, gateway):
    status, headers, text = gateway.refuse(kind, "the-request")
    answer = json.loads(text)
    assert status == STATUS[kind] and headers["Content-Type"] == "application/json"
    assert set(answer) == {"error", "requestId"} and answer["requestId"] == "the-request"
    assert set(answer["error"]) == {"code", "message"}
    assert re.fullmatch("[a-z_]+", answer["error"]["code"]) and answer["error"]["message"].endswith(".")
    assert "$context" not in text.decode()
    code = answer["error"]["code"]
    assert HANDLER_CODES.get(code, status) in (status, 500), "the handler uses this code with another status"


def test_no_refusal_repeats_what_the_caller_sent():
    """Only the request's ID and the gateway's own error type are inserted: no request can break the JSON."""
    templates = [each["Properties"]["ResponseTemplates"]["application/json"]
                 for each in of_type("AWS::ApiGateway::GatewayResponse").values()]
    used = {name for text in templates for name in re.findall(r"\$[\w.]+", text)}
    assert used == {"$context.requestId", "$context.error.responseType"}


def test_five_things_ring_and_only_if_somebody_listens():
    alarms = [alarm["Properties"] for alarm in of_type("AWS::CloudWatch::Alarm").values()]
    assert {(alarm["Namespace"], json.dumps(alarm["MetricName"])) for alarm in alarms} == {
        ("AWS/ApiGateway", '"5XXError"'), ("AWS/ApiGateway", '"Latency"'), ("AWS/Lambda", '"Errors"'),
        ("AWS/Lambda", '"Throttles"'), ("Scene", '{"Fn::Sub": "${AWS::StackName}-Throttled"}')}
    assert RESOURCES["SlowAnswers"]["Properties"]["ExtendedStatistic"] == "p99"
    for alarm in alarms:
        assert alarm["TreatMissingData"] == "notBreaching", "no requests at night must not raise an alarm"
        assert alarm["AlarmActions"]["Fn::If"][0] == "SendAlarms"


def test_the_dashboard_is_json_and_shows_metrics_that_the_handler_writes():
    body = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(re.sub(r"\$\{[^}]*}", "x", body))["widgets"]
    assert len(widgets) == 5
    handler = (aws.ROOT / "lambda" / "get_scene.py").read_text()
    for name in ("Latency", "ColdStart", "Error"):
        assert name in body and f'"{name}"' in handler
    fields = {"mode", "scene", "code", "cold", "milliseconds"}
    assert fields <= set(re.findall(r"\w+", body))


def test_outputs_tell_no_secret():
    assert set(TEMPLATE["Outputs"]) == {"Endpoint", "Function", "Bucket", "Caller"}
    assert "AccessKey" not in (FOLDER / "template.yaml").read_text()
