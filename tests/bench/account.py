"""The stack as a real account would have it: python -m tests.bench.account [scan | localstack]

scan        checkov and AWS's rules for CloudFormation Guard read the templates. Findings without an answer in
            ANSWERS fail.
localstack  the commands from `up` to `down`, against LocalStack without Docker. Invocations of the function
            are answered by the built zips in AWS's own runtime client, and requests to the endpoint pass
            tests/gateway.py, with the users and policies that LocalStack has.

Both need packages whose pins clash with ours, so each gets an environment under build/account/, made here.
Needs the network, npm (for Guard's rules), python3.13 and binutils.

LocalStack 4.14 has these gaps:
- Without Docker it runs no function, and its API Gateway calls none. So our proxy and gateway do.
- It finds a change in a stack that has none, so a second `up` runs an empty update.
- It ignores the expected owner of a bucket, policies of S3, SnapStart, reserved concurrency, and eventual
  consistency. It has no HTTP and WebSocket APIs: the proxy says that there are none.
- It cannot list layers after the last version of one was deleted: the proxy says that there are none.
- It does not delete a user that an update replaces. `down` does.
- It does not refuse models called Error. tests/aws_rules.py does.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from configparser import RawConfigParser
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3

from cloudformation import render
from scene.answer.classifier import PRETRAINED, Classifier
from tests import aws
from tests.gateway import Gateway
from tests.runtime import NATIVE, ROOT, Function, build, free_port, install_client

FOLDER = ROOT / "build/account"
LOCALSTACK = ["localstack-core[runtime]==4.14.0",
              "cbor2<6", "pyopenssl<26", "cryptography<47", "service-identity"]      # newer ones break it
SCANNERS = ["checkov", "cfn-guard-rs"]
GUARD_RULES = "@cdklabs/cdk-validator-cfnguard"
PHOTO = ROOT / "datasets/test/ocean/ocean_000.jpg"

# Findings that stay, and why. The comment beside each resource says more.
ANSWERS = {
    "CKV_AWS_18": "no access log of the bucket: the function is its only reader",
    "CKV_AWS_26": "no encryption of the topic: CloudWatch could not publish to it with AWS's own key",
    "CKV_AWS_40": "no group: there is one user with one permission",
    "CKV_AWS_73": "no X-Ray: the log has the milliseconds of each part",
    "CKV_AWS_116": "no dead-letter queue: every call is synchronous",
    "CKV_AWS_117": "no VPC: the function only calls S3",
    "CKV_AWS_120": "no cache: photos do not repeat",
    "CKV_AWS_158": "no KMS key for logs: no photo is ever logged",
    "CKV_AWS_173": "no KMS key for the environment: nothing in it is secret",
    "ct-apigateway-pr-1": "no execution log: the access log and the function's say all",
    "ct-apigateway-pr-2": "no X-Ray, as above",
    "ct-cloudwatch-pr-1": "alarms have an action if --email names somebody",
    "ct-cloudwatch-pr-2": "logs for 30 days, or as --log-days says",
    "ct-cloudwatch-pr-3": "no KMS key for logs, as above",
    "ct-iam-pr-4": "no group, as above",
    "ct-lambda-pr-2": "CallFunction names its source; the rule reads no Fn::Sub",
    "ct-lambda-pr-3": "no VPC, as above",
    "ct-s3-pr-2": "no access log, as above",
    "ct-s3-pr-3": "no lifecycle: `model --rollback` needs old versions, which are small",
    "ct-s3-pr-4": "no notifications: nobody would read them",
    "ct-s3-pr-6": "no lifecycle, as above",
    "ct-s3-pr-8": "OnlyTls denies all without TLS; the rule reads no Fn::Sub",
    "ct-s3-pr-9": "no Object Lock: `down` could not delete anything",
    "ct-s3-pr-10": "S3's own key: a KMS key costs and protects from nothing more here",
}

OF_THE_CONNECTION = "content-length", "transfer-encoding", "connection", "date", "server"
LAUNCH = """
from localstack.services.lambda_.invocation import docker_runtime_executor as docker
docker.DockerRuntimeExecutor.prepare_version = classmethod(lambda cls, version: None)      # no image to fetch
docker.DockerRuntimeExecutor.validate_environment = classmethod(lambda cls: True)
from localstack.runtime.main import main
main()
"""


def environment(name, packages, python=sys.executable):
    """The Python of an environment with these packages."""
    folder = FOLDER / name
    if not (folder / "complete").exists():
        print(f"Installing {', '.join(packages)}", flush=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return folder / "bin/python"


def find_python():
    sys.path.insert(0, str(ROOT / "lambda"))
    from build import find_python as find

    return find()


# The scanners


def scan():
    """Prints the findings of the scanners: -> how many have no answer."""
    python = environment("scanners", SCANNERS)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, "endpoint.yaml"), Path(folder, "bucket.yaml")]
        files[0].write_text(render.template({}), encoding="utf-8")
        shutil.copyfile(ROOT / "cloudformation/bucket.yaml", files[1])
        found = [*checkov(python, folder), *guard(python, files)]
    unanswered = [finding for finding in found if finding.partition(" ")[0] not in ANSWERS]
    answered = sorted({finding.partition(" ")[0] for finding in found} & ANSWERS.keys())
    for name in answered:
        print(f"  {name}: {ANSWERS[name]}")
    for finding in unanswered:
        print(f"  NOT ANSWERED: {finding}")
    print(f"{len(found)} findings by {len(answered)} answered rules, {len(unanswered)} not answered")
    return len(unanswered)


def checkov(python, folder):
    """Checkov's failed checks, as "rule resource: what"."""
    command = [python, "-m", "checkov.main", "-d", folder, "--framework", "cloudformation", "-o", "json",
               "--quiet", "--compact"]
    done = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(done.stdout)
    print(f"checkov: {report['summary']['passed']} checks passed, {report['summary']['failed']} failed")
    for check in report["results"]["failed_checks"]:
        yield f"{check['check_id']} {check['resource']}: {check['check_name']}"


def guard(python, files):
    """The rules of AWS that our templates break, as "rule file"."""
    rules = guard_rules()
    script = FOLDER / "guard.py"
    script.write_text("""
import json, sys
from pathlib import Path
from cfn_guard_rs.cfn_guard_rs import run_checks_rs
broken = []
count = 0
for path in sys.argv[2:]:
    template = Path(path).read_text()
    for file in sorted(Path(sys.argv[1]).rglob("*.guard")):
        count += 1
        try:
            compliant = not json.loads(run_checks_rs(template, file.read_text(), False))["not_compliant"]
        except json.JSONDecodeError:            # it cuts off long reports, which only faults have
            compliant = False
        if not compliant:
            broken.append([file.stem, Path(path).stem])
print(json.dumps([count, broken]))
""", encoding="utf-8")
    plain = []
    for path in files:
        plain.append(path.with_suffix(".json"))
        plain[-1].write_text(json.dumps(aws.cfn_yaml.load(str(path))), encoding="utf-8")
    done = subprocess.run([python, script, rules, *plain], capture_output=True, text=True, check=True)
    count, broken = json.loads(done.stdout.splitlines()[-1])
    print(f"CloudFormation Guard: {count} rules read, {len(broken)} broken")
    for name, file in broken:
        yield f"{name} {file}"


def guard_rules():
    """The folder of AWS's rules, from the package that AWS's CDK takes them from."""
    folder = FOLDER / "rules"
    if not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", GUARD_RULES]
        packed = subprocess.run(command, cwd=part, capture_output=True, text=True, check=True).stdout
        shutil.unpack_archive(part / packed.split()[-1], part)
        part.rename(folder)
    return folder


# LocalStack


@contextmanager
def localstack():
    """The URL of a LocalStack in an environment of its own, without Docker."""
    python = environment("localstack", LOCALSTACK, find_python())
    port = free_port()
    script = FOLDER / "launch.py"
    script.write_text(LAUNCH, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, open(FOLDER / "localstack.log", "w") as log:
        variables = {"FILESYSTEM_ROOT": f"{folder}/root", "LOCALSTACK_VOLUME_DIR": f"{folder}/volume",
                     "GATEWAY_LISTEN": f"127.0.0.1:{port}", "SKIP_SSL_CERT_DOWNLOAD": "1",
                     "DISABLE_EVENTS": "1"}
        process = subprocess.Popen([python, script], env=os.environ | variables, stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(port, process):
    for _ in range(300):
        time.sleep(0.5)
        assert process.poll() is None, f"LocalStack does not start: see {FOLDER / 'localstack.log'}"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
            connection.request("GET", "/_localstack/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
    raise RuntimeError("LocalStack does not answer")


class Account:
    """LocalStack with a proxy before it that answers invocations, and a person's folder with credentials."""

    def __init__(self, url, folder, bundle):
        self.url = url
        self.folder = folder
        self.bundle = bundle
        self.functions = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), proxy(self))
        self.proxy = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.credentials = folder / "credentials"
        self.credentials.write_text(
            f"[default]\naws_access_key_id = test\naws_secret_access_key = test\nregion = {aws.REGION}\n")

    def close(self):
        for function in self.functions.values():
            function.stop()
        self.server.shutdown()
        self.server.server_close()

    def client(self, service):
        return boto3.client(service, aws.REGION, endpoint_url=self.url, aws_access_key_id="test",
                            aws_secret_access_key="test")

    def line(self, *arguments, fails=False):
        """Runs a command as a person does: -> what it printed."""
        print(f"$ python -m cloudformation {' '.join(map(str, arguments))}", flush=True)
        variables = {"AWS_ENDPOINT_URL": self.proxy, "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
                     "AWS_CONFIG_FILE": str(self.folder / "config"), "https_proxy": "http://127.0.0.1:9"}
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run([sys.executable, "-m", "cloudformation", *map(str, arguments)], cwd=ROOT,
                              env=ours | variables, capture_output=True, text=True, input="y\n")
        lines = (done.stdout + done.stderr).splitlines()
        shown = [text for text in lines if not re.match(" +add |    [A-Z]+_", text)]
        print("".join(f"  {text}\n" for text in shown[-8:]), end="", flush=True)
        assert (done.returncode != 0) == fails, (done.returncode, done.stdout[-2000:], done.stderr)
        return done.stdout + done.stderr

    def function(self, version):
        """The function of a version: its code and layer from LocalStack's bucket, in AWS's runtime client."""
        if version not in self.functions:
            configuration = self.client("lambda").get_function_configuration(
                FunctionName="scene-get_scene", Qualifier=version)
            snap = configuration["SnapStart"]["ApplyOn"] == "PublishedVersions"
            client = FOLDER / "client"
            python = find_python()
            if not client.exists():
                install_client(python, client)
            variables = configuration["Environment"]["Variables"] | {
                "AWS_ENDPOINT_URL_S3": self.url, "AWS_REGION": aws.REGION,
                "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if snap else "on-demand"}
            self.functions[version] = Function(
                python, self.bundle / "code", [self.bundle / "layer/python", client], variables,
                self.folder / f"function-{version}.log")
        return self.functions[version]

    def invoke(self, event, qualifier):
        """What Lambda answers: -> a runtime.Result."""
        if not qualifier.isdigit():
            alias = self.client("lambda").get_alias(FunctionName="scene-get_scene", Name=qualifier)
            qualifier = alias["FunctionVersion"]
        return self.function(qualifier).invoke(event)


def proxy(account):
    """The request handler of a server that answers invocations itself and passes on everything else."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path, _, query = self.path.partition("?")
            if path.endswith("/invocations"):
                result = account.invoke(json.loads(body), query.rpartition("Qualifier=")[2])
                headers = [("X-Amz-Function-Error", "Unhandled")] if result.failed else []
                self.reply(200, headers, json.dumps(result.payload).encode())
                return
            if path == "/v2/apis":
                self.reply(200, [], b'{"items": []}')
                return
            connection = http.client.HTTPConnection(account.url.removeprefix("http://"), timeout=120)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            if response.status == 500 and path == "/2018-10-31/layers":
                self.reply(200, [], b'{"Layers": []}')
                return
            self.reply(response.status, response.getheaders(), response.read())

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def reply(self, status, headers, body):
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_):
            """Prints nothing."""

    return Handler


def gateway(account):
    """tests/gateway.py in front of the function, with the user's key and LocalStack's policies.

    Changes the profiles to its address.
    """
    keys = RawConfigParser()
    keys.read(account.credentials)
    user = f"scene-{aws.REGION}-caller"
    iam = account.client("iam")
    names = iam.list_user_policies(UserName=user)["PolicyNames"]
    policies = [iam.get_user_policy(UserName=user, PolicyName=name)["PolicyDocument"] for name in names]
    api = keys["scene"]["scene_url"].split("/")[2].split(".")[0]
    users = {keys["scene"]["aws_access_key_id"]: (keys["scene"]["aws_secret_access_key"], policies),
             "test": ("test", [{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}])}

    def call(event):
        result = account.invoke(event, "live")
        assert not result.failed, result.payload
        return result.payload

    made = Gateway(aws.TEMPLATE, users, f"arn:aws:execute-api:{aws.REGION}:000000000000:{api}/live", call)
    for section in "default", "scene":
        keys[section]["scene_url"] = made.url
    with open(account.credentials, "w") as file:
        keys.write(file)
    return made


def run_commands():
    """Every command against LocalStack."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, localstack() as url:
        folder = Path(temporary)
        models = folder / "models"
        models.mkdir()
        for mode, path in PRETRAINED.items():
            shutil.copyfile(path, models / f"model_{mode}")
        made = build(folder / "bundle", models)
        assert made.returncode == 0, made.stderr
        zipfile.ZipFile(folder / "bundle/get_scene.zip").extractall(folder / "bundle/code")
        zipfile.ZipFile(folder / f"bundle/layer-{NATIVE}.zip").extractall(folder / "bundle/layer")
        account = Account(url, folder, folder / "bundle")
        try:
            follow_the_readme(account, folder / "bundle")
        finally:
            account.close()


def follow_the_readme(account, bundle):
    up = "up", "--built", bundle, "--arch", NATIVE
    assert "Endpoint: https://" in account.line(*up)
    assert "nothing to change" in account.line(*up)
    account.line("key")
    api = gateway(account)
    try:
        expected = next(iter(Classifier.open(PRETRAINED["CNN"]).classify(PHOTO.read_bytes())))
        assert expected in account.line("invoke", PHOTO, "--profile", "scene")
        other = bundle / "other"
        other.write_bytes(changed(bundle / "model_CNN"))
        assert "The endpoint answers with model" in account.line("model", other)
        assert "The endpoint answers with model" in account.line("model", "--rollback", "CNN")
        broken = bundle / "broken"
        broken.write_bytes((bundle / "model_FCNN").read_bytes()[:-9])
        account.line("model", broken, fails=True)
        assert "The endpoint runs version 2" in account.line(*up, "--memory", "1024")
        assert "The endpoint runs version 1" in account.line("up", "--rollback")
        assert "version   1, rolled back from 2" in account.line("status")
        account.line(*up, "--snap-start", "yes", "--cors", "https://example.com", "--user", "other")
        account.line("openapi")
        account.line("logs")
    finally:
        api.close()
    assert "Nothing is left." in account.line("down")
    assert "Nothing is left." in account.line("down")


def changed(path):
    """The bytes of a model with its classes in another order: another model of the same kind."""
    from scene.answer import modelfile

    network, card = modelfile.load(path.read_bytes())
    out = path.with_suffix(".new")
    modelfile.save(out, network, card | {"classes": card["classes"][::-1]})
    return out.read_bytes()


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["scan", "localstack"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    unanswered = scan() if "scan" in chosen else 0
    if "localstack" in chosen:
        run_commands()
    sys.exit(bool(unanswered))
