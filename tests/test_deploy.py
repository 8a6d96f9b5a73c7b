"""deploy.py from nothing to an endpoint and back to nothing, on moto over HTTP. What moto cannot show stands in tests/aws.py."""

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

import deploy
import down
import stack
from scene import command
from scene.command import UserError
from tests import aws


@pytest.fixture(autouse=True)
def account():
    aws.reset()


@pytest.fixture
def built(tmp_path, models):
    """What lambda/build.py leaves, with next to nothing in the zips."""
    folder = tmp_path / "built"
    shutil.copytree(models, folder)
    zipfile.ZipFile(folder / "get_scene.zip", "w").writestr("get_scene.py", "")
    for arch in ("arm64", "x86_64"):
        zipfile.ZipFile(folder / f"layer-{arch}.zip", "w").writestr("python/numpy.py", arch)
    return folder


Deployment = functools.cache(deploy.Deployment)         # it keeps nothing of AWS's but clients, and those take most of the time


@pytest.fixture
def anew(monkeypatch):
    """Each command reads its environment anew."""
    monkeypatch.setattr(sys.modules[__name__], "Deployment", deploy.Deployment)


@pytest.fixture
def run(monkeypatch, tmp_path, built):
    """Runs a command of deploy.py in this process, with hardly a pause: -> its exit code. `up` is told where the built files are."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in aws.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for module in (deploy, down, stack):
        monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(deploy, "Deployment", Deployment)

    def work(*arguments):
        more = ["--built", str(built)] if arguments[0] == "up" else []
        return deploy.run(deploy.parse([*arguments, *more]))

    return work


@pytest.fixture
def said(run, monkeypatch, capsys):
    """Runs a command as a person does: -> what it printed, on stderr if it `fails`."""
    def work(*arguments, fails=False, answer=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        capsys.readouterr()
        try:
            code = command.run(run, *arguments)
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


def everything():
    """All that there is in the account, by name."""
    names = {f"stack {stack['StackName']}" for stack in aws.client("cloudformation").describe_stacks()["Stacks"]}
    names |= {f"bucket {bucket['Name']}" for bucket in aws.client("s3").list_buckets()["Buckets"]}
    names |= {f"user {user['UserName']}" for user in aws.client("iam").list_users()["Users"]}
    names |= {f"role {role['RoleName'].rpartition('-')[0]}" for role in aws.client("iam").list_roles()["Roles"]}
    names |= {f"function {function['FunctionName']}" for function in aws.client("lambda").list_functions()["Functions"]}
    names |= {f"layer {layer['LayerName']}" for layer in aws.client("lambda").list_layers()["Layers"]}
    names |= {f"API {api['name']}" for api in aws.client("apigateway").get_rest_apis()["items"]}
    names |= {f"logs {group['logGroupName']}" for group in aws.client("logs").describe_log_groups()["logGroups"]}
    names |= {f"dashboard {each['DashboardName']}" for each in aws.client("cloudwatch").list_dashboards()["DashboardEntries"]}
    return names


ENDPOINT = {
    "stack scene", "stack scene-bucket", f"bucket {aws.BUCKET}", "user scene-caller", "role scene-FunctionRole", "role scene-LoggingRole",
    "function scene-get_scene", "layer scene-layer", "API scene", "logs /aws/lambda/scene-get_scene", "logs /aws/apigateway/scene",
    "dashboard scene"}


def test_from_nothing_to_an_endpoint_and_back_to_nothing(tmp_path, built):
    """As a person types it, each command a process of its own."""
    def line(*arguments, answer=""):
        return subprocess.run([sys.executable, aws.ROOT / "cloudformation" / "deploy.py", *arguments], input=answer, text=True,
                              capture_output=True, env=aws.environment(tmp_path), check=True).stdout

    printed = line("up", "--built", built)
    endpoint = re.search(r"Endpoint: (https://\w+\.execute-api\.eu-central-1\.amazonaws\.com/live/get_scene)\n", printed)[1]
    assert everything() == ENDPOINT
    assert printed.endswith("Next: python cloudformation/deploy.py key\n")
    function = aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]
    assert (function["Runtime"], function["Handler"], function["Timeout"]) == ("python3.13", "get_scene.handler", 20)
    variables = function["Environment"]["Variables"]
    assert (variables["SCENE_BUCKET"], variables["SCENE_ARRAYS"]) == (aws.BUCKET, "numpy")
    assert (variables["SCENE_KEY_FCNN"], variables["SCENE_KEY_CNN"]) == ("scene/model_FCNN", "scene/model_CNN")

    profile = line("key")
    assert profile.startswith("[scene]\naws_access_key_id = ") and f"scene_url = {endpoint}\n" in profile
    shown = line("status")
    assert endpoint in shown and "scene: CREATE_COMPLETE" in shown and "alarms    none" in shown
    assert re.search(r"aws_access_key_id = (\w+)", profile)[1] in shown
    assert re.search(r"aws_secret_access_key = (.+)", profile)[1] not in shown

    gone = line("down", answer="y\n")
    assert everything() == set() and gone.endswith("Nothing is left.\n")
    assert line("down", "--yes") == "There is no stack scene in eu-central-1: nothing to take down.\n"


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
    assert len(versions("scene/get_scene")) == 2, "a zip has a key of its own for each content"
    assert aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]["MemorySize"] == 512


def test_a_dry_run_shows_the_changes_and_makes_none(said):
    printed = said("up", "--dry-run")
    assert "add    Function (AWS::Lambda::Function)" in printed and "upload model_CNN" in printed
    assert everything() == set()
    said("up")
    said("up", "--dry-run", "--memory", "512")
    assert aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]["MemorySize"] == 1769


def test_layers_of_ones_own_take_the_place_of_ours(said, built):
    layer = aws.client("lambda").publish_layer_version(LayerName="torch", Content={"ZipFile": (built / "layer-arm64.zip").read_bytes()})
    (built / "layer-arm64.zip").unlink()
    said("up", "--layers", layer["LayerVersionArn"], "--arrays", "torch")
    function = aws.client("lambda").get_function(FunctionName="scene-get_scene")["Configuration"]
    assert function["Environment"]["Variables"]["SCENE_ARRAYS"] == "torch" and not versions("scene/layer")
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
    assert "leave --bucket away" in said("up", "--bucket", "other", fails=True)
    asked = said("down", answer="no\n", fails=True)
    assert "all under scene/ in bucket mine, which stays" in asked and "stack scene" in everything()
    said("down", "--yes")
    assert everything() == {"bucket mine"}
    assert [each["Key"] for each in s3.list_object_versions(Bucket="mine")["Versions"]] == ["model_CNN", "scene.txt"]


def test_a_bucket_without_versions_is_not_used(said):
    make_bucket("mine", versioned=False)
    assert "keeps no versions" in said("up", "--bucket", "mine", fails=True)
    assert "stack scene" not in everything()


@pytest.fixture
def versioned(said):
    """The endpoint, its bucket with the versions that bucket.yaml asks for and moto forgets."""
    said("up")
    aws.client("s3").put_bucket_versioning(Bucket=aws.BUCKET, VersioningConfiguration={"Status": "Enabled"})


def test_up_puts_a_new_model_in_place_but_not_an_old_one_back(said, built, versioned):
    first = (built / "model_CNN").read_bytes()
    (built / "model_CNN").write_bytes(first + b" ")
    assert re.findall(r"upload (\S+),", said("up")) == ["model_CNN"]
    (built / "model_CNN").write_bytes(first)
    assert "model_CNN: a later one is in service and stays" in said("up")
    assert aws.client("s3").get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")["Body"].read() == first + b" "


def test_a_key_is_replaced_only_if_the_person_says_so(anew, said, tmp_path):
    said("up")
    first = said("key")
    assert "it will be refused" in said("key", answer="\n", fails=True)
    keys = aws.client("iam").list_access_keys(UserName="scene-caller")["AccessKeyMetadata"]
    assert [each["AccessKeyId"] for each in keys] == re.findall("aws_access_key_id = (.+)", first)
    second = said("key", answer="y\n")
    keys = aws.client("iam").list_access_keys(UserName="scene-caller")["AccessKeyMetadata"]
    assert [each["AccessKeyId"] for each in keys] == re.findall("aws_access_key_id = (.+)", second) != re.findall("_id = (.+)", first)
    with open(tmp_path / "credentials", "a") as file:
        file.write(second)
    assert "profile [scene] already" in said("key", "--yes", fails=True), "a second section of this name would break the whole file"


def test_logs_of_function_and_gateway_come_in_order(said):
    said("up")
    now, logs = int(1000 * time.time()), aws.client("logs")
    for group, events in (("/aws/lambda/scene-get_scene", [(2000, '{"scene": "ocean"}\n')]),
                          ("/aws/apigateway/scene", [(7_200_000, "long ago"), (3000, '{"status": "403"}')])):
        logs.create_log_stream(logGroupName=group, logStreamName="1")
        logs.put_log_events(logGroupName=group, logStreamName="1",
                            logEvents=[{"timestamp": now - age, "message": message} for age, message in events])
    assert [line[20:] for line in said("logs").splitlines()] == ['gateway  {"status": "403"}', 'function {"scene": "ocean"}']
    assert said("logs", "--minutes", "0") == ""


MISTAKES = [
    (("up", "--stack", "Ünsinn"), {}, "is not up to 26 small letters"),
    (("up", "--bucket", "No_Bucket"), {}, "is not a bucket's name"),
    (("up", "--profile", "nobody"), {}, "The config profile (nobody) could not be found"),
    (("status",), {}, "run `python cloudformation/deploy.py up` first"),
    (("invoke", "no.jpg"), {}, "no.jpg: cannot be read"),
    (("model", "setup.cfg"), {}, "run `python cloudformation/deploy.py up` first"),
    (("status",), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect to the endpoint URL"),
    (("status",), {"AWS_SHARED_CREDENTIALS_FILE": "none", "AWS_DEFAULT_REGION": "eu-central-1"}, "There are no AWS credentials here"),
    (("status",), {"AWS_SHARED_CREDENTIALS_FILE": "none"}, "Which region of AWS?"),
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
    assert "has no get_scene.zip, model_CNN: run `python lambda/build.py --arch arm64` first." in words and everything() == set()


def test_an_error_of_aws_becomes_a_sentence(said):
    aws.client("iam").create_user(UserName="scene-caller")
    assert said("up", fails=True).endswith("AWS refused ExecuteChangeSet, EntityAlreadyExists: User scene-caller already exists.\n")


# From here on in this process, so that it can be interrupted, and moto's memory written to.

@contextmanager
def interruption(n):
    """Ctrl-C as soon as AWS has carried out the n-th call that changes something. Yields the names of the calls so far."""
    calls, call = [], BaseClient._make_api_call

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
    n, calls = 0, []
    while len(calls) == n:
        aws.reset()
        n += 1
        with interruption(n) as calls:
            run("up")
        run("up")
        assert everything() == ENDPOINT, f"after {calls}"
        assert sorted(re.sub("-[0-9a-f]{16}", "", version["Key"]) for version in versions("")) == [
            "scene/get_scene.zip", "scene/layer-arm64.zip", "scene/model_CNN", "scene/model_FCNN"]
    assert calls == ["CreateChangeSet", "ExecuteChangeSet"] + 4 * ["PutObject"] + ["CreateChangeSet", "ExecuteChangeSet"]


def test_down_interrupted_anywhere_is_finished_by_the_same_command(run):
    """Each `down` is interrupted after the first thing that it deletes."""
    run("up")
    run("key")
    role = next(role["Arn"] for role in aws.client("iam").list_roles()["Roles"] if "LoggingRole" in role["RoleName"])
    gateway, deleted, calls = aws.client("apigateway"), [], True
    gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": role}])
    while calls:
        with interruption(1) as calls:
            run("down", "--yes")
        deleted += calls
    assert deleted == ["DeleteAccessKey", "UpdateAccount", "DeleteObjects", "DeleteStack", "DeleteStack"]
    assert everything() == set() and not gateway.get_account().get("cloudwatchRoleArn")


def test_the_logging_role_of_the_account_is_kept(run):
    role = aws.client("iam").create_role(RoleName="theirs", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    gateway = aws.client("apigateway")
    gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": role}])
    run("up")
    assert "role scene-LoggingRole" not in everything()
    run("down", "--yes")
    assert gateway.get_account()["cloudwatchRoleArn"] == role
    aws.client("iam").delete_role(RoleName="theirs")            # now the account names a role that is not there
    run("up")
    assert "role scene-LoggingRole" in everything()


def stack_in_moto(name="scene"):
    return next(stack for stack in cloudformation_backends[aws.ACCOUNT][aws.REGION].stacks.values() if stack.name == name)


def add_event(stack, status, name=None, reason=None):
    """Writes an event of a resource, or of the stack itself, into moto's memory."""
    physical = "x" if name else stack.stack_id
    stack.events.append(Event(stack.stack_id, stack.name, name or stack.name, physical, "AWS::X::Y", status, reason, None))


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
    assert re.search(r"at work \(UPDATE_IN_PROGRESS\).*UPDATE_COMPLETE +Function\n.*UPDATE_COMPLETE +scene\n  nothing to", shown, re.DOTALL)
    assert steps == [] and "CREATE_COMPLETE" not in shown, "an event of old"


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
    with pytest.raises(UserError, match=r"^Stack scene ended as UPDATE_ROLLBACK_COMPLETE\. Function: Memory is too small\. Mend this"):
        run("up", "--memory", "512")
    assert "UPDATE_FAILED        Function: Memory is too small." in capsys.readouterr().out


def test_a_change_set_that_cannot_be_made_tells_why(run, monkeypatch):
    failed = {"status": "FAILED", "status_reason": "Arrays=torch needs LayerArns"}
    monkeypatch.setattr(ChangeSet, "__setattr__", lambda self, name, value: object.__setattr__(self, name, failed.get(name, value)))
    with pytest.raises(UserError, match="^CloudFormation refuses to change scene-bucket: Arrays=torch needs LayerArns"):
        run("up")


def test_down_is_not_believed_where_something_is_left(run, monkeypatch):
    run("up")
    monkeypatch.setattr(LogGroup, "delete", lambda *arguments: None)
    with pytest.raises(UserError, match="^Still there: log group /aws/lambda/scene-get_scene, log group /aws/apigateway/scene"):
        run("down", "--yes")


def test_the_functions_role_reads_two_objects_and_nothing_else(run):
    """With IAM and signatures enforced: moto evaluates the policy that the stack attached to the role."""
    run("up")
    role = next(role for role in aws.client("iam").list_roles()["Roles"] if "FunctionRole" in role["RoleName"])
    keys = aws.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="test")["Credentials"]
    s3 = aws.client("s3", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    zips = [version["Key"] for version in versions("") if version["Key"].endswith(".zip")]
    with enforced():
        for mode in ("FCNN", "CNN"):
            assert s3.get_object(Bucket=aws.BUCKET, Key=f"scene/model_{mode}")["ETag"]
        for refused in (lambda: s3.get_object(Bucket=aws.BUCKET, Key=zips[0]), lambda: s3.list_objects_v2(Bucket=aws.BUCKET),
                        lambda: s3.get_object(Bucket=aws.BUCKET, Key="scene/model_RNN"),
                        lambda: s3.put_object(Bucket=aws.BUCKET, Key="scene/model_CNN", Body=b""),
                        lambda: s3.delete_object(Bucket=aws.BUCKET, Key="scene/model_CNN")):
            with pytest.raises(ClientError, match="AccessDenied"):
                refused()
        thief = aws.client("s3", keys["AccessKeyId"], "another secret", keys["SessionToken"])
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            thief.get_object(Bucket=aws.BUCKET, Key="scene/model_CNN")


@contextmanager
def enforced():
    """moto checks signatures and policies from here on."""
    def tell(count):
        request = urllib.request.Request(f"{aws.url()}/moto-api/reset-auth", data=count.encode(), headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    tell("0")
    try:
        yield
    finally:
        tell("inf")
