"""The commands, from an empty account to an endpoint and back, on moto. tests/aws.py lists moto's limits."""

import configparser
import errno
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace

import openapi_spec_validator
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, Event, cloudformation_backends
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult
from moto.logs.models import LogGroup
from moto.s3.models import s3_backends

from cloudformation import __main__ as commands
from cloudformation import down, profile, release, stack, store
from scene import errors
from scene.errors import UserError
from scene.models import MODES
from tests import aws
from tests.aws import DEPLOYED


@pytest.fixture(autouse=True)
def account():
    aws.reset()


@pytest.fixture
def built(tmp_path, models):
    """The output of lambda/build.py, with almost empty zips."""
    folder = tmp_path / "built"
    shutil.copytree(models, folder)
    zipfile.ZipFile(folder / "get_scene.zip", "w").writestr("get_scene.py", "")
    for arch in ("arm64", "x86_64"):
        zipfile.ZipFile(folder / f"layer-{arch}.zip", "w").writestr("python/numpy.py", arch)
    return folder


# Cached: a Deployment keeps no state of AWS except clients, and creating those takes most of the time.
Deployment = functools.cache(commands.Deployment)


@pytest.fixture
def anew(monkeypatch):
    """Each command reads its environment again."""
    monkeypatch.setattr(sys.modules[__name__], "Deployment", commands.Deployment)


@pytest.fixture
def run(monkeypatch, tmp_path, built):
    """Runs a command in this process, with short pauses: -> its exit code. `up` gets --built."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in aws.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for module in (commands, down, release, stack):
        monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(commands, "Deployment", Deployment)

    def work(*arguments):
        more = ["--built", str(built)] if arguments[0] == "up" else []
        return commands.run(commands.parse([*arguments, *more]))

    return work


@pytest.fixture
def said(run, monkeypatch, capsys):
    """Runs a command as a person does: -> its output, from stderr if it `fails`."""
    def work(*arguments, fails=False, answer=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        capsys.readouterr()
        try:
            code = errors.run(run, *arguments)
        except SystemExit as error:             # argparse
            code = error.code
        printed = capsys.readouterr()
        assert code == (2 if fails else 0), printed.err
        return printed.err if fails else printed.out

    return work


def versions(key):
    return aws.client("s3").list_object_versions(Bucket=aws.BUCKET, Prefix=key).get("Versions", [])


def parameters():
    stack, = aws.client("cloudformation").describe_stacks(StackName="scene")["Stacks"]
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}


def configuration():
    return aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]


def everything():
    """The names of all resources in the account."""
    client = aws.client
    names = {f"stack {stack['StackName']}" for stack in client("cloudformation").describe_stacks()["Stacks"]}
    names |= {f"bucket {bucket['Name']}" for bucket in client("s3").list_buckets()["Buckets"]}
    names |= {f"user {user['UserName']}" for user in client("iam").list_users()["Users"]}
    names |= {f"role {role['RoleName'].rpartition('-')[0]}" for role in client("iam").list_roles()["Roles"]}
    names |= {f"function {each['FunctionName']}" for each in client("lambda").list_functions()["Functions"]}
    names |= {f"layer {layer['LayerName']}" for layer in client("lambda").list_layers()["Layers"]}
    names |= {f"API {api['name']}" for api in client("apigateway").get_rest_apis()["items"]}
    names |= {f"logs {group['logGroupName']}" for group in client("logs").describe_log_groups()["logGroups"]}
    dashboards = client("cloudwatch").list_dashboards()["DashboardEntries"]
    names |= {f"dashboard {dashboard['DashboardName']}" for dashboard in dashboards}
    alarms = client("cloudwatch").describe_alarms()["MetricAlarms"]
    return names | {f"alarm {alarm['AlarmName'].rpartition('-')[0]}" for alarm in alarms}


ENDPOINT = {
    "stack scene", "stack scene-bucket", f"bucket {aws.BUCKET}", "user scene-eu-central-1-caller",
    "role scene-FunctionRole", "role scene-LoggingRole", "function scene-get_scene", "layer scene-layer",
    "API scene", "logs /aws/lambda/scene-get_scene", "logs /aws/apigateway/scene", "dashboard scene",
    *(f"alarm scene-{name}" for name in
      ("ServerErrors", "SlowAnswers", "TooManyRequests", "FunctionErrors", "FunctionThrottles"))}


def test_from_nothing_to_an_endpoint_and_back_to_nothing(tmp_path, built):
    """As a person types it, each command in a process of its own."""
    def line(*arguments, answer=""):
        command = [sys.executable, "-m", "cloudformation", *arguments]
        return subprocess.run(command, input=answer, text=True, capture_output=True, check=True,
                              cwd=aws.ROOT, env=aws.environment(tmp_path)).stdout

    printed = line("up", "--built", built)
    url = r"https://\w+\.execute-api\.eu-central-1\.amazonaws\.com/live/get_scene"
    endpoint = re.search(rf"Endpoint: ({url})\n", printed)[1]
    assert everything() == ENDPOINT
    assert printed.endswith("Next: python -m cloudformation key\n")
    function = configuration()
    assert function["Runtime"] == "python3.13"
    assert function["Handler"] == "get_scene.handler"
    assert function["Timeout"] == 20
    variables = function["Environment"]["Variables"]
    assert (variables["SCENE_BUCKET"], variables["SCENE_ARRAYS"]) == (aws.BUCKET, "numpy")
    assert DEPLOYED and all(variables[f"SCENE_KEY_{mode}"] == f"scene/model_{mode}" for mode in DEPLOYED)

    said = line("key")
    profile = (tmp_path / "credentials").read_text()
    assert "\n[scene]\naws_access_key_id = " in profile and f"scene_url = {endpoint}\n" in profile
    key, secret = (re.findall(rf"{name} = (.+)", profile)[1] for name in
                   ("aws_access_key_id", "aws_secret_access_key"))
    shown = line("status")
    assert endpoint in shown and "scene: CREATE_COMPLETE" in shown and "alarms    none" in shown
    assert key in shown and key in said and secret not in shown + said

    gone = line("down", answer="y\n")
    assert everything() == set() and gone.endswith("Nothing is left.\n")
    again = line("down")
    assert again.startswith("There is no stack scene in eu-central-1.\nDeleted and verified: ")
    assert again.endswith("Nothing is left.\n")


def test_a_second_up_changes_nothing_and_says_so(said):
    said("up")
    before = len(versions(""))
    printed = said("up")
    assert printed.count("nothing to change") == 2 and "upload" not in printed
    assert len(versions("")) == before


def test_only_what_changed_is_uploaded_and_options_stay_as_they_were(said, built):
    said("up", "--memory", "512", "--arch", "x86_64")
    assert [key for key in (version["Key"] for version in versions("scene/layer")) if "x86_64" in key]
    with zipfile.ZipFile(built / "get_scene.zip", "a") as file:
        file.writestr("more.py", "")
    printed = said("up", "--rate", "5")
    assert re.findall(r"upload (\S+),", printed) == ["get_scene.zip"] and "UPDATE_COMPLETE" in printed
    now = parameters()
    assert (now["Memory"], now["RequestsPerSecond"], now["Architecture"]) == ("512", "5", "x86_64")
    assert len(versions("scene/get_scene")) == 2, "each content of a zip has its own key"
    assert configuration()["MemorySize"] == 512


def test_a_dry_run_shows_the_changes_and_makes_none(said):
    printed = said("up", "--dry-run")
    assert "add    Function (AWS::Lambda::Function)" in printed and "upload model_CNN" in printed
    assert everything() == set()
    said("up")
    said("up", "--dry-run", "--memory", "512")
    assert configuration()["MemorySize"] == 1769


def test_layers_of_ones_own_take_the_place_of_ours(said, built):
    data = (built / "layer-arm64.zip").read_bytes()
    layer = aws.client("lambda").publish_layer_version(LayerName="torch", Content={"ZipFile": data})
    (built / "layer-arm64.zip").unlink()
    said("up", "--layers", layer["LayerVersionArn"], "--arrays", "torch")
    assert configuration()["Environment"]["Variables"]["SCENE_ARRAYS"] == "torch"
    assert not versions("scene/layer")
    assert parameters()["LayerArns"] == layer["LayerVersionArn"]


def make_bucket(name, versioned=True):
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": aws.REGION})
    if versioned:
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return s3


def test_a_bucket_of_ones_own_stays_with_all_that_is_not_the_stacks(said):
    s3 = make_bucket("mine")
    s3.put_object(Bucket="mine", Key="scene.txt", Body=b"")
    s3.put_object(Bucket="mine", Key="model_CNN", Body=b"another")
    said("up", "--bucket", "mine")
    assert "stack scene-bucket" not in everything()
    assert "leave --bucket out" in said("up", "--bucket", "other", fails=True)
    asked = said("down", answer="no\n", fails=True)
    assert "all under scene/ in bucket mine, which stays" in asked and "stack scene" in everything()
    said("down", "--yes")
    assert everything() == {"bucket mine"}
    left = s3.list_object_versions(Bucket="mine")["Versions"]
    assert [each["Key"] for each in left] == ["model_CNN", "scene.txt"]


def test_a_bucket_without_versions_is_not_used(said):
    make_bucket("mine", versioned=False)
    assert "has no versioning" in said("up", "--bucket", "mine", fails=True)
    assert "stack scene" not in everything()


@pytest.fixture
def versioned(said):
    """The endpoint, with the bucket's versioning, which bucket.yaml enables and moto ignores."""
    said("up")
    aws.client("s3").put_bucket_versioning(Bucket=aws.BUCKET, VersioningConfiguration={"Status": "Enabled"})


def test_up_puts_a_new_model_in_place_but_not_an_old_one_back(said, built, versioned):
    first = (built / "model_CNN").read_bytes()
    (built / "model_CNN").write_bytes(first + b" ")
    assert re.findall(r"upload (\S+),", said("up")) == ["model_CNN"]
    (built / "model_CNN").write_bytes(first)
    assert "model_CNN: a newer model is in service and stays" in said("up")
    current = aws.client("s3").get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")
    assert current["Body"].read() == first + b" "


def access_keys(user="scene-eu-central-1-caller"):
    keys = aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
    return [each["AccessKeyId"] for each in keys]


def test_a_key_is_replaced_only_if_the_person_says_so(anew, said):
    said("up")
    first = said("key", "--show")
    old = re.findall("aws_access_key_id = (.+)", first)
    assert "the old one will be refused" in said("key", "--show", answer="\n", fails=True)
    assert access_keys() == old
    second = said("key", "--show", answer="y\n")
    assert access_keys() == re.findall("aws_access_key_id = (.+)", second) != old
    said("key", "--yes")
    last = access_keys()
    # A second section of this name would break the whole file.
    assert "already has a profile [scene]" in said("key", "--yes", fails=True)
    assert access_keys() == last


MINE = "[default]\naws_access_key_id = admin\naws_secret_access_key = secret\nregion = eu-central-1\n"
FILES = [MINE, MINE.rstrip(), MINE + "# no new line", MINE.replace("\n", "\r\n") + "\n\n",
         MINE + "[other]\nx = ü%(y)s"]


@pytest.mark.parametrize("before", FILES, ids=repr)
def test_a_profile_is_added_to_the_file_and_nothing_else_changes(before, anew, said, tmp_path):
    file = tmp_path / "credentials"
    file.write_bytes(before.encode())
    file.chmod(0o644)
    said("up")
    said("key")
    after = file.read_bytes().decode()
    assert after.startswith(before) and file.stat().st_mode & 0o777 == 0o600
    found = configparser.RawConfigParser()
    found.read_string(after)
    old = configparser.RawConfigParser()
    old.read_string(before)
    assert {name: dict(found[name]) for name in old.sections()} == \
        {name: dict(old[name]) for name in old.sections()}
    assert found["scene"]["aws_access_key_id"] == access_keys()[0]
    assert sorted(path.name for path in tmp_path.iterdir() if "part" in path.name) == []


def test_a_profile_goes_into_a_new_file_or_through_a_link(tmp_path):
    profile.add(tmp_path / "aws" / "credentials", "scene", {"region": "x"})
    file = tmp_path / "aws" / "credentials"
    assert file.read_text() == "[scene]\nregion = x\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    (tmp_path / "link").symlink_to(file)
    profile.add(tmp_path / "link", "other", {"region": "y"})
    assert (tmp_path / "link").is_symlink() and "[other]" in file.read_text()


@pytest.mark.parametrize("broken", [MINE + "[scene]\n", MINE + "no key of anything", MINE + "\xff"], ids=repr)
def test_a_file_that_cannot_take_the_profile_stays_as_it_is(broken, tmp_path):
    file = tmp_path / "credentials"
    file.write_bytes(broken.encode("latin-1"))
    for attempt in profile.check, functools.partial(profile.add, values={}):
        with pytest.raises(UserError, match="left as it is"):
            attempt(file, "scene")
    assert file.read_bytes() == broken.encode("latin-1")


def test_a_key_that_cannot_be_stored_is_deleted_again(anew, said, monkeypatch):
    def full(*_, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "credentials")

    said("up")
    monkeypatch.setattr(profile.files, "write", full)
    assert said("key", fails=True) == "credentials: No space left on device.\n"
    assert access_keys() == []


def test_logs_of_function_and_gateway_come_in_order(said):
    said("up")
    now = int(1000 * time.time())
    logs = aws.client("logs")
    for group, events in (("/aws/lambda/scene-get_scene", [(2000, '{"scene": "ocean"}\n')]),
                          ("/aws/apigateway/scene", [(7_200_000, "long ago"), (3000, '{"status": "403"}')])):
        logs.create_log_stream(logGroupName=group, logStreamName="1")
        events = [{"timestamp": now - age, "message": message} for age, message in events]
        logs.put_log_events(logGroupName=group, logStreamName="1", logEvents=events)
    shown = [line[20:] for line in said("logs").splitlines()]
    assert shown == ['gateway  {"status": "403"}', 'function {"scene": "ocean"}']
    assert said("logs", "--minutes", "0") == ""


MISTAKES = [
    (("up", "--stack", "Ünsinn"), {}, "is not up to 26 lowercase letters"),
    (("up", "--stack", "scene-bucket"), {}, "would be the name of a bucket's stack: leave -bucket out"),
    (("up", "--bucket", "No_Bucket"), {}, "is not a bucket's name"),
    (("up", "--profile", "nobody"), {}, "The config profile (nobody) could not be found"),
    (("status",), {}, "run `python -m cloudformation up` first"),
    (("invoke", "no.jpg"), {}, "no.jpg: cannot be read"),
    (("model", "setup.cfg"), {}, "run `python -m cloudformation up` first"),
    (("status",), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint URL"),
    (("status",), {"AWS_SHARED_CREDENTIALS_FILE": "none", "AWS_DEFAULT_REGION": "eu-central-1"},
     "No AWS credentials were found"),
    (("status",), {"AWS_SHARED_CREDENTIALS_FILE": "none"}, "No AWS region is set"),
]


@pytest.mark.parametrize(("arguments", "environment", "words"), MISTAKES)
def test_a_mistake_gets_a_sentence(anew, arguments, environment, words, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert words in said(*arguments, fails=True)


def test_what_was_not_built_is_named(said, built):
    (built / "get_scene.zip").unlink()
    (built / "model_CNN").unlink()
    words = said("up", fails=True)
    assert "has no get_scene.zip, model_CNN: run `python lambda/build.py --arch arm64` first." in words
    assert everything() == set()


def test_a_mode_without_a_pretrained_model_needs_none(said, built, monkeypatch):
    monkeypatch.setitem(MODES, "CNN", MODES["CNN"]._replace(pretrained=False))
    data = (built / "model_CNN").read_bytes()
    (built / "model_CNN").unlink()
    assert "model_CNN" not in said("up") and not versions("scene/model_CNN")
    (built / "model_CNN").write_bytes(data)
    assert re.findall(r"upload (\S+),", said("up")) == ["model_CNN"], "one that is there is uploaded"


def test_an_error_of_aws_becomes_a_sentence(said):
    aws.client("iam").create_user(UserName="scene-eu-central-1-caller")
    words = "EntityAlreadyExists: User scene-eu-central-1-caller already exists.\n"
    assert said("up", fails=True).endswith(words)


# The tests from here on interrupt commands in this process and write to moto's memory.

@contextmanager
def interruption(n):
    """Ctrl-C right after the n-th call to AWS that changes something. Yields the names of these calls."""
    calls = []
    call = BaseClient._make_api_call

    def counted(self, operation, arguments):
        answer = call(self, operation, arguments)
        if not operation.startswith(("Describe", "Get", "Head", "List", "Invoke")):
            calls.append(operation)
            if len(calls) == n:
                raise KeyboardInterrupt
        return answer

    BaseClient._make_api_call = counted
    try:
        yield calls
    except KeyboardInterrupt:
        pass
    finally:
        BaseClient._make_api_call = call


def test_up_interrupted_anywhere_is_finished_by_the_same_command(run):
    models = [f"scene/model_{mode}" for mode in MODES]
    n = 0
    calls = []
    while len(calls) == n:
        aws.reset()
        n += 1
        with interruption(n) as calls:
            run("up")
        run("up")
        assert everything() == ENDPOINT, f"after {calls}"
        assert sorted(re.sub("-[0-9a-f]{16}", "", version["Key"]) for version in versions("")) == sorted(
            ["scene/get_scene.zip", "scene/layer-arm64.zip", *models])
    stack_calls = ["CreateChangeSet", "ExecuteChangeSet"]
    assert calls == stack_calls + (2 + len(models)) * ["PutObject"] + [*stack_calls, "PublishVersion"]


def set_logging_role(arn):
    """Sets the account's role for API Gateway's logs; returns a client of API Gateway."""
    gateway = aws.client("apigateway")
    gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": arn}])
    return gateway


def test_down_interrupted_anywhere_is_finished_by_the_same_command(run):
    """Each `down` is interrupted after its first deletion."""
    run("up")
    run("key")
    roles = aws.client("iam").list_roles()["Roles"]
    gateway = set_logging_role(next(role["Arn"] for role in roles if "LoggingRole" in role["RoleName"]))
    deleted = []
    calls = True
    while calls:
        with interruption(1) as calls:
            run("down", "--yes")
        deleted += calls
    assert deleted == ["DeleteAccessKey", "DeleteObjects", "DeleteStack", "DeleteStack", "UpdateAccount",
                       "DeleteRole"]
    assert everything() == set() and not gateway.get_account().get("cloudwatchRoleArn")


def test_the_logging_role_of_the_account_is_kept(run):
    role = aws.client("iam").create_role(RoleName="theirs", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    gateway = set_logging_role(role)
    run("up")
    assert "role scene-LoggingRole" not in everything()
    run("down", "--yes")
    assert gateway.get_account()["cloudwatchRoleArn"] == role
    aws.client("iam").delete_role(RoleName="theirs")            # the account's setting still names it
    run("up")
    assert "role scene-LoggingRole" in everything()


def stack_in_moto(name="scene"):
    stacks = cloudformation_backends[aws.ACCOUNT][aws.REGION].stacks.values()
    return next(stack for stack in stacks if stack.name == name)


def add_event(stack, status, name=None, reason=None):
    """Writes an event of a resource, or of the stack itself, into moto's memory."""
    physical = "x" if name else stack.stack_id
    event = Event(stack.stack_id, stack.name, name or stack.name, physical, "AWS::X::Y", status, reason, None)
    stack.events.append(event)


def test_up_waits_for_what_an_interrupted_one_has_begun(run, monkeypatch, capsys):
    run("up")
    scene = stack_in_moto()

    def step(status, name=None):
        add_event(scene, status, name)
        if not name:
            scene.status = status

    def sleep(seconds):
        step(*steps.pop(0))

    step("UPDATE_IN_PROGRESS")
    steps = [("UPDATE_COMPLETE", "Function"), ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",), ("UPDATE_COMPLETE",)]
    monkeypatch.setattr(stack, "time", SimpleNamespace(
        sleep=sleep, time_ns=time.time_ns, monotonic=time.monotonic))
    capsys.readouterr()
    run("up")
    shown = capsys.readouterr().out
    words = r"busy \(UPDATE_IN_PROGRESS\).*UPDATE_COMPLETE +Function\n.*UPDATE_COMPLETE +scene\n  nothing to"
    assert re.search(words, shown, re.DOTALL)
    assert steps == [] and "CREATE_COMPLETE" not in shown, "an earlier event"


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS", "DELETE_FAILED"])
def test_a_stack_that_can_only_be_deleted_is_made_anew(status, run, capsys):
    run("up")
    stack_in_moto().status = status
    capsys.readouterr()
    run("up")
    assert re.search("DELETE_COMPLETE +scene\n.*CREATE_COMPLETE +scene\n", capsys.readouterr().out, re.DOTALL)
    assert everything() == ENDPOINT


@pytest.fixture
def fails(monkeypatch):
    """fails(status, *events) makes the next updates end like this: events are (status, resource, reason)."""
    def arrange(status, *events):
        def execute(self, change_set_name, stack_name=None):
            scene = stack_in_moto()
            for event in events:
                add_event(scene, *event)
            scene.status = status
            add_event(scene, status)

        monkeypatch.setattr(CloudFormationBackend, "execute_change_set", execute)

    return arrange


def test_a_failed_update_tells_what_failed_first(run, fails, capsys):
    run("up")
    fails("UPDATE_ROLLBACK_COMPLETE", ("UPDATE_FAILED", "Live", "Resource update cancelled"),
          ("UPDATE_FAILED", "Function", "Memory is too small."), ("UPDATE_FAILED", "Api", "A consequence."))
    words = r"^Stack scene ended as UPDATE_ROLLBACK_COMPLETE\. Function: Memory is too small\. Fix this"
    with pytest.raises(UserError, match=words):
        run("up", "--memory", "512")
    assert "UPDATE_FAILED        Function: Memory is too small." in capsys.readouterr().out


def test_events_with_nothing_but_what_aws_guarantees(run, fails, monkeypatch, capsys):
    """AWS guarantees StackId, EventId, StackName and Timestamp only."""
    run("up")
    fails("UPDATE_COMPLETE", ("UPDATE_COMPLETE", "Function", None))
    list_events = CloudFormationResponse.describe_stack_events

    def bare(self):
        events = list_events(self).result["StackEvents"]
        return ActionResult({"StackEvents": [
            {"StackId": event.stack_id, "EventId": event.event_id, "StackName": event.stack_name,
             "Timestamp": event.timestamp} for event in events]})

    monkeypatch.setattr(CloudFormationResponse, "describe_stack_events", bare)
    monkeypatch.setattr(stack, "QUIET", 0.05)
    capsys.readouterr()
    run("up", "--memory", "512")
    assert "    EVENT                scene\n" in capsys.readouterr().out


def test_following_events_has_an_end(run, fails, monkeypatch):
    run("up")
    fails("UPDATE_IN_PROGRESS")
    monkeypatch.setattr(stack, "LIMIT", 0.05)
    words = r"^Stack scene is still UPDATE_IN_PROGRESS after [0.]+ minutes\. CloudFormation goes on without"
    with pytest.raises(UserError, match=words):
        run("up", "--memory", "512")


def test_an_old_status_right_after_the_start_is_not_the_end(run, monkeypatch, capsys):
    """AWS may show the status before the operation for a moment, and its events later."""
    run("up")
    scene = stack_in_moto()
    shown = iter(["CREATE_COMPLETE", "CREATE_COMPLETE", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"])

    def sleep(seconds):
        scene.status = next(shown)
        if scene.status == "UPDATE_ROLLBACK_COMPLETE":
            add_event(scene, "UPDATE_FAILED", "Function", "Late news")

    monkeypatch.setattr(CloudFormationBackend, "execute_change_set", lambda *arguments, **more: None)
    monkeypatch.setattr(stack, "time", SimpleNamespace(
        sleep=sleep, time_ns=time.time_ns, monotonic=time.monotonic))
    with pytest.raises(UserError, match="UPDATE_ROLLBACK_COMPLETE. Function: Late news"):
        run("up", "--memory", "512")


def event(**more):
    return {"EventId": str(more), "StackId": "x", "OperationId": "1", "EventType": "VALIDATION_ERROR", **more}


def test_what_early_validation_refuses_is_named(run, monkeypatch):
    reason = "The following validations failed. Use the DescribeEvents API for more information"
    failed = {"status": "FAILED", "status_reason": reason}
    monkeypatch.setattr(ChangeSet, "__setattr__", lambda change_set, name, value: object.__setattr__(
        change_set, name, failed.get(name, value)))
    aws.Run.failures = [
        event(LogicalResourceId="Bucket", ValidationStatusReason="A bucket of this name exists."),
        event(LogicalResourceId="OnlyTls", ValidationStatusReason="No such property."),
        event(LogicalResourceId="Old", ValidationStatusReason="Long ago.", OperationId="0")]
    words = "stack scene-bucket: Bucket: A bucket of this name exists; OnlyTls: No such property.$"
    with pytest.raises(UserError, match=words):
        run("up")
    aws.Run.failures = []
    with pytest.raises(UserError, match="Use the DescribeEvents API"):
        run("up")


def test_a_failure_without_a_failed_event_is_looked_up(run, fails):
    run("up")
    fails("UPDATE_FAILED")
    aws.Run.failures = [event(LogicalResourceId="Api", HookStatusReason="No.")]
    with pytest.raises(UserError, match="ended as UPDATE_FAILED. Api: No. Fix this"):
        run("up", "--memory", "512")


@pytest.mark.parametrize("ends", ["UPDATE_ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED"])
def test_a_rollback_that_failed_is_continued(ends, run, monkeypatch, capsys):
    run("up")
    scene = stack_in_moto()
    scene.status = "UPDATE_ROLLBACK_FAILED"

    def continue_rollback(self):
        if ends.endswith("FAILED"):
            add_event(scene, "UPDATE_FAILED", "Caller", "It has keys.")
        scene.status = ends
        add_event(scene, ends)
        return ActionResult({})

    monkeypatch.setattr(
        CloudFormationResponse, "continue_update_rollback", continue_rollback, raising=False)
    if ends.endswith("FAILED"):
        with pytest.raises(UserError, match="ended as UPDATE_ROLLBACK_FAILED. Caller: It has keys. Repair"):
            run("up", "--memory", "512")
        return
    run("up", "--memory", "512")
    assert "had failed (UPDATE_ROLLBACK_FAILED): continuing it" in capsys.readouterr().out
    assert configuration()["MemorySize"] == 512


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED", "DELETE_FAILED"])
def test_a_dry_run_leaves_a_failed_stack_as_it_is(status, run, capsys):
    run("up")
    stack_in_moto().status = status
    before = everything()
    run("up", "--dry-run", "--memory", "512")
    assert everything() == before and f"  {status}: `python -m cloudformation up` would first" in \
        capsys.readouterr().out


@pytest.mark.parametrize("command", [("up",), ("down", "--yes"), ("up", "--dry-run")])
@pytest.mark.parametrize("name", ["scene", "scene-bucket"])
def test_a_stack_that_is_not_ours_is_left_alone(name, command, said):
    body = json.dumps({"Description": "Payroll", "Resources": {"T": {"Type": "AWS::SNS::Topic"}}})
    aws.client("cloudformation").create_stack(StackName=name, TemplateBody=body)
    assert f"There is a stack {name} that is not Scene's" in said(*command, fails=True)
    assert {each for each in everything() if each.startswith("stack")} == {f"stack {name}"}


def test_a_change_that_replaces_a_resource_says_so():
    change = {"Action": "Modify", "LogicalResourceId": "Caller", "ResourceType": "AWS::IAM::User"}
    shown = {value: stack.describe_change(change | {"Replacement": value})
             for value in ("True", "Conditional", "False", "")}
    same = "modify Caller (AWS::IAM::User)"
    assert shown == {"True": f"{same}, which replaces it", "Conditional": f"{same}, which may replace it",
                     "False": same, "": same}
    assert stack.describe_change(change) == same


def test_a_change_set_that_cannot_be_made_tells_why(run, monkeypatch):
    failed = {"status": "FAILED", "status_reason": "Arrays=torch needs LayerArns"}
    monkeypatch.setattr(ChangeSet, "__setattr__", lambda change_set, name, value: object.__setattr__(
        change_set, name, failed.get(name, value)))
    words = r"^CloudFormation cannot change stack scene-bucket: Arrays=torch needs LayerArns\."
    with pytest.raises(UserError, match=words):
        run("up")


# The bucket and its owner


def test_a_bucket_of_somebody_else_is_not_used(run, built):
    """Its name can be guessed, and its owner may let everybody in."""
    backend = s3_backends["999999999999"]["aws"]
    backend.create_bucket(aws.BUCKET, aws.REGION)
    with pytest.raises(UserError, match=f"^Bucket {aws.BUCKET} belongs to another account, or these"):
        run("up")
    with pytest.raises(UserError, match=f"^Bucket {aws.BUCKET} belongs to another account, or these"):
        run("up", "--bucket", aws.BUCKET)
    assert "stack scene" not in everything() and not backend.buckets[aws.BUCKET].keys
    run("down")                             # it is not asked to delete anything in there


def test_a_bucket_that_somebody_else_has_got_since_is_not_used(run, built):
    run("up")
    ours, theirs = s3_backends[aws.ACCOUNT]["aws"], s3_backends["999999999999"]["aws"]
    theirs.buckets[aws.BUCKET] = ours.buckets.pop(aws.BUCKET)
    before = dict(theirs.buckets[aws.BUCKET].keys)
    for command in (("up",), ("status",), ("model", str(built / "model_CNN")), ("down", "--yes")):
        with pytest.raises(UserError, match="belongs to another account|AccessDenied"):
            run(*command)
    assert dict(theirs.buckets[aws.BUCKET].keys) == before


def test_every_call_to_s3_names_the_owner(run, built):
    """All commands, and every operation of S3 that can."""
    client = Deployment("scene", None, None).client("s3")
    calls = {}

    def note(params, model, **_):
        calls[model.name] = calls.get(model.name, True) and \
            params["headers"].get("x-amz-expected-bucket-owner") == aws.ACCOUNT

    client.meta.events.register("before-call.s3", note)
    run("up")
    aws.client("s3").put_bucket_versioning(Bucket=aws.BUCKET, VersioningConfiguration={"Status": "Enabled"})
    run("status")
    (built / "model_CNN").write_bytes((built / "model_CNN").read_bytes() + b" ")
    run("up")
    make_bucket("mine")
    run("down", "--yes")
    run("up", "--bucket", "mine")
    client.meta.events.unregister("before-call.s3", note)
    assert calls and all(calls.values()), calls
    assert {"PutObject", "GetObject", "HeadBucket", "ListObjectVersions", "DeleteObjects"} <= set(calls)


# Objects that were deleted in the console


def test_a_deleted_model_is_missing_and_comes_back(said, built, versioned):
    s3 = aws.client("s3")
    data = (built / "model_CNN").read_bytes()
    s3.delete_object(Bucket=aws.BUCKET, Key="scene/model_CNN")
    assert "CNN       no model\n" in said("status")
    assert re.findall(r"upload (\S+),", said("up")) == ["model_CNN"]
    assert s3.get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")["Body"].read() == data
    s3.delete_object(Bucket=aws.BUCKET, Key="scene/model_CNN")
    assert Deployment("scene", None, None).store().read_before("CNN") == data, "the newest is the one before"


def test_a_deleted_zip_is_uploaded_again(said, versioned):
    s3 = aws.client("s3")
    for version in versions("scene/get_scene") + versions("scene/layer"):
        s3.delete_object(Bucket=aws.BUCKET, Key=version["Key"])
    assert re.findall(r"upload (\S+),", said("up")) == ["get_scene.zip", "layer-arm64.zip"]


# Users


def test_another_user_leaves_no_key_behind(run, capsys):
    run("up")
    run("key", "--show")
    old = access_keys()
    run("up", "--dry-run", "--user", "new")
    assert access_keys() == old
    capsys.readouterr()
    run("up", "--user", "new")
    assert f"delete key {old[0]} of scene-eu-central-1-caller: its requests" in capsys.readouterr().out
    assert {each for each in everything() if each.startswith("user")} == {"user new"}
    run("up", "--memory", "512")
    assert parameters()["UserName"] == "new"
    run("up", "--user", "")
    assert {each for each in everything() if each.startswith("user")} == {"user scene-eu-central-1-caller"}
    run("key", "--show")
    run("up", "--user", "")
    run("up", "--user", "scene-eu-central-1-caller")
    assert access_keys(), "the same user by its default name"


POLICY = '{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}'


def test_down_finds_a_user_that_was_left_behind(run):
    """As 1.4's `up --user` left one. It is still found when the stack is gone."""
    iam = aws.client("iam")
    for _ in range(2):
        run("up")
        iam.create_user(UserName="old", Path="/scene/scene/eu-central-1/")
        iam.create_user(UserName="theirs", Path="/scene/scene-test/eu-central-1/")
        iam.create_access_key(UserName="old")
        iam.put_user_policy(UserName="old", PolicyName="x", PolicyDocument=POLICY)
        run("down", "--yes")
        assert everything() == {"user theirs"}
        iam.delete_user(UserName="theirs")
        aws.reset()


def test_a_failed_deletion_is_repaired_although_the_user_has_a_key(run):
    """The console's "Delete" fails where the user has a key. `up` creates all anew, with no old key."""
    run("up")
    run("key", "--show")
    stack_in_moto().status = "DELETE_FAILED"
    run("up")
    assert everything() == ENDPOINT and access_keys() == []


def test_a_second_stack_and_a_second_region_have_their_own_users(run):
    run("up")
    run("up", "--stack", "scene-test")
    run("up", "--region", "us-east-1")
    users = {each for each in everything() if each.startswith("user")}
    assert users == {"user scene-eu-central-1-caller", "user scene-test-eu-central-1-caller",
                     "user scene-us-east-1-caller"}
    run("key", "--show", "--stack", "scene-test")
    run("down", "--yes")
    assert {each for each in everything() if each.startswith("user")} == users - {
        "user scene-eu-central-1-caller"}
    assert access_keys("scene-test-eu-central-1-caller")


# The role for API Gateway's logs


def logging_role():
    roles = aws.client("iam").list_roles()["Roles"]
    return next(role["Arn"] for role in roles if "LoggingRole" in role["RoleName"])


def test_the_logging_role_stays_as_long_as_another_stage_logs(run, capsys):
    run("up")
    gateway = set_logging_role(logging_role())                  # moto ignores the resource that sets it
    run("up", "--stack", "scene-test")
    assert "role scene-test-LoggingRole" not in everything()
    api = gateway.create_rest_api(name="theirs")["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    gateway.put_method(restApiId=api, resourceId=root, httpMethod="GET", authorizationType="NONE")
    gateway.put_integration(restApiId=api, resourceId=root, httpMethod="GET", type="MOCK")
    deployment = gateway.create_deployment(restApiId=api)["id"]
    gateway.create_stage(restApiId=api, stageName="prod", deploymentId=deployment)
    change = {"op": "replace", "path": "/*/*/logging/loglevel", "value": "INFO"}
    gateway.update_stage(restApiId=api, stageName="prod", patchOperations=[change])
    capsys.readouterr()
    run("down", "--yes")
    assert "The role for API Gateway's logs stays: stage theirs/prod writes logs with it." in \
        capsys.readouterr().out
    assert gateway.get_account()["cloudwatchRoleArn"] == logging_role()
    gateway.delete_rest_api(restApiId=api)
    run("down", "--yes", "--stack", "scene-test")               # the last one takes it, whoever made it
    assert everything() == set() and not gateway.get_account().get("cloudwatchRoleArn")


# Versions of the function


def live():
    return aws.client("lambda").get_alias(FunctionName="scene-get_scene", Name="live")["FunctionVersion"]


def published():
    found = aws.client("lambda").list_versions_by_function(FunctionName="scene-get_scene")["Versions"]
    return [version["Version"] for version in found if version["Version"] != "$LATEST"]


def test_an_update_publishes_a_version_and_the_endpoint_shifts_to_it(run, capsys):
    run("up")
    assert (live(), published()) == ("1", ["1"])
    run("up")
    assert (live(), published()) == ("1", ["1"])
    capsys.readouterr()
    run("up", "--memory", "512")
    assert (live(), published()) == ("2", ["1", "2"])
    assert "The endpoint runs version 2.\n" in capsys.readouterr().out
    run("status")
    assert "version   2\n" in capsys.readouterr().out
    run("up", "--memory", "1024")
    assert (live(), published()) == ("3", ["2", "3"]), "older ones cost money, with SnapStart"


def test_a_version_that_does_not_start_gets_no_request(run):
    run("up")
    aws.Run.function = lambda event, version: ({"errorMessage": "No module named 'numpy'"}, version == "2")
    words = "Version 2 of the function does not start: No module named 'numpy'. The endpoint stays at version"
    with pytest.raises(UserError, match=words):
        run("up", "--memory", "512")
    assert live() == "1"
    aws.Run.function = aws.works
    run("up")                               # again, with nothing to change
    assert live() == "2"


def test_a_version_that_cannot_read_the_model_gets_no_request(run, built):
    run("up")
    aws.Run.function = lambda event, version: ({"warm": {"CNN": "model_unreadable", "FCNN": "x"}}, False)
    for mode in MODES:
        (built / f"model_{mode}").rename(built / f"other_{mode}")
    run_without = functools.partial(run, "up", "--memory", "512")
    with pytest.MonkeyPatch.context() as patch:
        for mode in MODES:
            patch.setitem(MODES, mode, MODES[mode]._replace(pretrained=False))
        with pytest.raises(UserError, match="Version 2 of the function cannot read the CNN model in the"):
            run_without()
    assert live() == "1"
    for mode in MODES:
        (built / f"other_{mode}").rename(built / f"model_{mode}")
    run_without()                           # a new model comes with it
    assert live() == "2"


def test_up_waits_until_the_new_role_is_known(run):
    answers = [({"warm": {"CNN": "model_missing"}}, False), ({"warm": {"CNN": "storage_unreachable"}}, False)]
    aws.Run.function = lambda event, version: answers.pop() if answers else aws.works(event, version)
    run("up")
    assert answers == []


def test_code_rolls_back_and_forward_again(run, capsys):
    run("up")
    with pytest.raises(UserError, match="There is no version before 1: nothing to roll back to"):
        run("up", "--rollback")
    run("up", "--memory", "512")
    run("up", "--rollback")
    assert live() == "1"
    capsys.readouterr()
    run("up")
    assert live() == "1" and "version 2 was rolled back, and version 1 stays" in capsys.readouterr().out
    run("status")
    assert "version   1, rolled back from 2\n" in capsys.readouterr().out
    run("up", "--rollback")
    assert live() == "2"
    run("up", "--rollback")
    run("up", "--memory", "1024")           # the next version goes into service, and version 1 is before it
    assert (live(), published()) == ("3", ["1", "3"])


def test_models_come_after_the_code_that_can_read_them(run, built):
    """But before it the first time, so that the first version finds them."""
    def order():
        with interruption(0) as calls:
            run("up")
        return [call for call in calls if call in ("PutObject", "PublishVersion", "UpdateAlias")]

    assert order() == (2 + len(MODES)) * ["PutObject"] + ["PublishVersion"]
    (built / "model_CNN").write_bytes((built / "model_CNN").read_bytes() + b" ")
    with zipfile.ZipFile(built / "get_scene.zip", "a") as file:
        file.writestr("more.py", "")
    assert order() == ["PutObject", "PublishVersion", "UpdateAlias", "PutObject"]


def test_a_model_that_the_deployed_code_cannot_read_is_refused(run, built, models):
    run("up")
    before = versions("")

    def refuse(event, version):
        assert event == {"try": "CNN"} and version == "1"
        assert aws.client("s3").get_object(Bucket=aws.BUCKET, Key="scene/candidate")["ETag"]
        return {"refused": "its format is 3"}, False

    aws.Run.function = refuse
    words = r"^The deployed code cannot use this model \(its format is 3\), so it was not put in service\."
    with pytest.raises(UserError, match=words):
        run("model", str(models / "model_CNN"))
    assert versions("") == before, "nothing is left of it"


def test_a_model_that_is_too_large_is_refused_by_all(run, built, monkeypatch):
    import build

    run("up")
    monkeypatch.setattr(store, "MAX_MODEL", 1000)
    for command in (("up",), ("model", str(built / "model_CNN"))):
        with pytest.raises(UserError, match=r"model_\w+ has \d\.\d MB, and the function accepts models of"):
            run(*command)
    monkeypatch.setattr(build, "MAX_MODEL", 1000)
    with pytest.raises(UserError, match=r"model_CNN has \d\.\d MB, and the function accepts"):
        build.choose_models([built / "model_CNN"])


def test_options_of_the_function_are_kept(run):
    run("up", "--snap-start", "yes", "--concurrency", "5", "--cors", "https://example.com")
    run("up")
    now = parameters()
    assert (now["SnapStart"], now["Concurrency"], now["CorsOrigin"]) == ("yes", "5", "https://example.com")
    assert configuration()["Environment"]["Variables"]["SCENE_CORS_ORIGIN"] == "https://example.com"
    run("up", "--cors", "")
    assert "SCENE_CORS_ORIGIN" not in configuration()["Environment"]["Variables"]


# What else the commands say


def test_status_shows_only_its_own_alarms(run, capsys):
    run("up")
    cloudwatch = aws.client("cloudwatch")
    others = "scene-test-ServerErrors-1ABC", "scene-x"
    for name in others:
        cloudwatch.put_metric_alarm(
            AlarmName=name, AlarmDescription="Another's", Namespace="x", MetricName="x", Period=60,
            EvaluationPeriods=1, Threshold=1, Statistic="Sum", ComparisonOperator="GreaterThanThreshold")
    ours = [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]]
    for name in [next(name for name in ours if "FunctionErrors" in name), *others]:
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="x")
    capsys.readouterr()
    run("status")
    assert "alarms    The function crashed or ran out of time or memory\n" in capsys.readouterr().out
    run("down", "--yes")
    assert {each for each in everything() if each.startswith("alarm")} == {
        "alarm scene-test-ServerErrors", "alarm scene"}


@pytest.mark.parametrize("left", ["the layer", "log group", "the dashboard", "users and keys", "the API"])
def test_a_second_down_looks_again(left, run, built, capsys):
    run("up")
    run("down", "--yes")
    plant = {
        "the layer": lambda: aws.client("lambda").publish_layer_version(
            LayerName="scene-layer", Content={"ZipFile": (built / "layer-arm64.zip").read_bytes()}),
        "log group": lambda: aws.client("logs").create_log_group(logGroupName="/aws/apigateway/scene"),
        "the dashboard": lambda: aws.client("cloudwatch").put_dashboard(
            DashboardName="scene", DashboardBody="{}"),
        "users and keys": lambda: aws.client("iam").create_user(
            UserName="old", Path="/scene/scene/eu-central-1/"),
        "the API": lambda: aws.client("apigateway").create_rest_api(name="scene"),
    }
    plant[left]()
    capsys.readouterr()
    if left == "users and keys":            # what `down` itself deletes
        run("down", "--yes")
        assert everything() == set()
        return
    with pytest.raises(UserError, match=f"^Not deleted: {left}"):
        run("down", "--yes")


def test_openapi_prints_a_valid_document(run, capsys):
    run("up")
    capsys.readouterr()
    run("openapi")
    document = json.loads(capsys.readouterr().out)
    openapi_spec_validator.validate(document)
    assert re.fullmatch(r"https://\w+\.execute-api\.eu-central-1\.amazonaws\.com/live",
                        document["servers"][0]["url"])
    responses = document["paths"]["/get_scene"]["post"]["responses"]
    deployed = aws.TEMPLATE["Resources"]["Post"]["Properties"]["MethodResponses"]
    assert sorted(responses) == sorted(each["StatusCode"] for each in deployed)


def test_down_is_not_believed_where_something_is_left(run, monkeypatch):
    run("up")
    monkeypatch.setattr(LogGroup, "delete", lambda *arguments: None)
    words = "^Not deleted: log group /aws/lambda/scene-get_scene, log group /aws/apigateway/scene"
    with pytest.raises(UserError, match=words):
        run("down", "--yes")


def test_the_functions_role_reads_the_models_and_nothing_else(run):
    """With IAM and signatures enforced: moto evaluates the policy that the stack attached to the role."""
    run("up")
    keys = aws.assume_function_role()
    s3 = aws.client("s3", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    zips = [version["Key"] for version in versions("") if version["Key"].endswith(".zip")]
    with enforced():
        for mode in DEPLOYED:
            assert s3.get_object(Bucket=aws.BUCKET, Key=f"scene/model_{mode}")["ETag"]
        for refused in (lambda: s3.get_object(Bucket=aws.BUCKET, Key=zips[0]),
                        lambda: s3.list_objects_v2(Bucket=aws.BUCKET),
                        lambda: s3.get_object(Bucket=aws.BUCKET, Key="scene/model_NONE"),
                        lambda: s3.put_object(Bucket=aws.BUCKET, Key="scene/model_CNN", Body=b""),
                        lambda: s3.delete_object(Bucket=aws.BUCKET, Key="scene/model_CNN")):
            with pytest.raises(ClientError, match="AccessDenied"):
                refused()
        thief = aws.client("s3", keys["AccessKeyId"], "another secret", keys["SessionToken"])
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            thief.get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")


@contextmanager
def enforced():
    """moto checks signatures and policies inside."""
    def skip_checks(count):
        request = urllib.request.Request(f"{aws.url()}/moto-api/reset-auth", data=count.encode(),
                                         headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    skip_checks("0")
    try:
        yield
    finally:
        skip_checks("inf")
