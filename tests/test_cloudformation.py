"""The commands, from an empty account to an endpoint and back, on moto. tests/aws.py lists moto's limits."""

import functools
import io
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

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto.cloudformation.models import ChangeSet, Event, cloudformation_backends
from moto.logs.models import LogGroup

from cloudformation import __main__ as commands
from cloudformation import down, stack
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
    for module in (commands, down, stack):
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
    return names | {f"dashboard {dashboard['DashboardName']}" for dashboard in dashboards}


ENDPOINT = {
    "stack scene", "stack scene-bucket", f"bucket {aws.BUCKET}", "user scene-caller",
    "role scene-FunctionRole", "role scene-LoggingRole", "function scene-get_scene", "layer scene-layer",
    "API scene", "logs /aws/lambda/scene-get_scene", "logs /aws/apigateway/scene", "dashboard scene"}


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

    profile = line("key")
    assert profile.startswith("[scene]\naws_access_key_id = ") and f"scene_url = {endpoint}\n" in profile
    shown = line("status")
    assert endpoint in shown and "scene: CREATE_COMPLETE" in shown and "alarms    none" in shown
    assert re.search(r"aws_access_key_id = (\w+)", profile)[1] in shown
    assert re.search(r"aws_secret_access_key = (.+)", profile)[1] not in shown

    gone = line("down", answer="y\n")
    assert everything() == set() and gone.endswith("Nothing is left.\n")
    assert line("down", "--yes") == "There is no stack scene in eu-central-1: nothing to delete.\n"


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


def access_keys():
    keys = aws.client("iam").list_access_keys(UserName="scene-caller")["AccessKeyMetadata"]
    return [each["AccessKeyId"] for each in keys]


def test_a_key_is_replaced_only_if_the_person_says_so(anew, said, tmp_path):
    said("up")
    first = said("key")
    old = re.findall("aws_access_key_id = (.+)", first)
    assert "the old one will be refused" in said("key", answer="\n", fails=True)
    assert access_keys() == old
    second = said("key", answer="y\n")
    assert access_keys() == re.findall("aws_access_key_id = (.+)", second) != old
    with open(tmp_path / "credentials", "a") as file:
        file.write(second)
    # A second section of this name would break the whole file.
    assert "already have a profile [scene]" in said("key", "--yes", fails=True)


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
    aws.client("iam").create_user(UserName="scene-caller")
    words = "AWS refused ExecuteChangeSet, EntityAlreadyExists: User scene-caller already exists.\n"
    assert said("up", fails=True).endswith(words)


# The tests from here on interrupt commands in this process and write to moto's memory.

@contextmanager
def interruption(n):
    """Ctrl-C right after the n-th call to AWS that changes something. Yields the names of these calls."""
    calls = []
    call = BaseClient._make_api_call

    def counted(self, operation, arguments):
        answer = call(self, operation, arguments)
        if not operation.startswith(("Describe", "Get", "Head", "List")):
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
    assert calls == stack_calls + (2 + len(models)) * ["PutObject"] + stack_calls


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
    assert deleted == ["DeleteAccessKey", "UpdateAccount", "DeleteObjects", "DeleteStack", "DeleteStack"]
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
    monkeypatch.setattr(stack, "time", SimpleNamespace(sleep=sleep, time_ns=time.time_ns))
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


def test_a_failed_update_tells_what_failed_first(run, monkeypatch, capsys):
    run("up")

    def fail(self):
        add_event(self.stack, "UPDATE_FAILED", "Live", "Resource update cancelled")
        add_event(self.stack, "UPDATE_FAILED", "Function", "Memory is too small.")
        add_event(self.stack, "UPDATE_FAILED", "Api", "A consequence.")
        add_event(self.stack, "UPDATE_ROLLBACK_COMPLETE")

    monkeypatch.setattr(ChangeSet, "apply", fail)
    words = r"^Stack scene ended as UPDATE_ROLLBACK_COMPLETE\. Function: Memory is too small\. Fix this"
    with pytest.raises(UserError, match=words):
        run("up", "--memory", "512")
    assert "UPDATE_FAILED        Function: Memory is too small." in capsys.readouterr().out


def test_a_change_set_that_cannot_be_made_tells_why(run, monkeypatch):
    failed = {"status": "FAILED", "status_reason": "Arrays=torch needs LayerArns"}
    monkeypatch.setattr(ChangeSet, "__setattr__", lambda change_set, name, value: object.__setattr__(
        change_set, name, failed.get(name, value)))
    words = "^CloudFormation cannot change stack scene-bucket: Arrays=torch needs LayerArns"
    with pytest.raises(UserError, match=words):
        run("up")


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
