"""Deploys the endpoint to AWS, and deletes it again.

    python lambda/build.py                       builds the zips and the models, in lambda/bucket/
    python -m cloudformation up                  the bucket, the uploads, the stack of template.yaml
    python -m cloudformation key                 an access key for the endpoint's user, as a profile of AWS
    python -m cloudformation invoke PHOTO        a signed request
    python -m cloudformation model PATH          puts another model in service (--rollback: the one before)
    python -m cloudformation status | logs       its state, and its logs
    python -m cloudformation openapi             its OpenAPI document
    python -m cloudformation down                deletes everything, and verifies it
"""

import io
import json
import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

try:
    from botocore.credentials import Credentials
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
except ImportError:
    sys.exit("python -m cloudformation needs boto3: python -m pip install -c constraints.txt -e '.[cloud]'")
from PIL import Image

from cloudformation import line, profile, release
from cloudformation.deployment import (
    BUCKET_STACK,
    PASSING,
    UNKNOWN,
    Deployment,
    Refused,
    keep_trying,
    send,
)
from cloudformation.down import look, own_bucket, take_down
from cloudformation.stack import PAUSE
from cloudformation.store import read_model
from cloudformation.up import up
from scene import errors
from scene.answer import modelfile
from scene.answer import openapi as interface
from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.models import MODES
from scene.photos import decode

PATIENCE = 150              # seconds for a new model to answer
REFRESH = 60                # seconds after which each sandbox of the function checks for a new model
NEW_KEY = 90                # seconds for a new key to be known everywhere
CREDENTIALS = "put your access key into ~/.aws/credentials, or log in, and name the profile with --profile"
PERMISSION = "these credentials lack this permission: use an administrator's"
RETRY = "wait a minute and run the same command again"
ADVICE = {                  # error codes of AWS -> what to do
    "ExpiredToken": "log in again",
    "ExpiredTokenException": "log in again",
    "RequestExpired": "log in again, and check this machine's clock",
    "InvalidClientTokenId": CREDENTIALS,
    "UnrecognizedClientException": CREDENTIALS,
    "SignatureDoesNotMatch": "check the secret key and this machine's clock",
    "AccessDenied": PERMISSION,
    "AccessDeniedException": PERMISSION,
    "Throttling": RETRY,
    "TooManyRequestsException": RETRY,
}


def key(options: Namespace, deployment: Deployment) -> None:
    """Creates an access key for the endpoint's user, and adds it to ~/.aws/credentials as a profile."""
    outputs = deployment.outputs
    caller = outputs["Caller"]
    file = deployment.credentials_file
    if not options.show:
        profile.check(file, deployment.name)
    if old := deployment.access_keys(caller):
        confirm(options, f"{caller} already has a key, of {old[0]['CreateDate']:%Y-%m-%d}. "
                         "A new key replaces it: requests signed with the old one will be refused.")
    deployment.delete_access_keys(caller)
    new = deployment.client("iam").create_access_key(UserName=caller)["AccessKey"]
    values = {"aws_access_key_id": new["AccessKeyId"], "aws_secret_access_key": new["SecretAccessKey"],
              "region": deployment.region, "scene_url": outputs["Endpoint"]}
    if options.show:
        print(profile.lines(deployment.name, values), end="")
        print("Store the secret key now: it is not shown again.", file=sys.stderr)
        return
    try:
        profile.add(file, deployment.name, values)
    except BaseException:                           # a key that nobody has would only be in the way
        deployment.client("iam").delete_access_key(UserName=caller, AccessKeyId=new["AccessKeyId"])
        raise
    print(f"Added profile [{deployment.name}], key {new['AccessKeyId']} of {caller}, to {file}.", flush=True)
    wait_for_key(values)
    print(f"Next: {line(f'invoke PHOTO --profile {deployment.name}')}")


def wait_for_key(values: dict[str, str]) -> None:
    """Waits until the endpoint knows a new key, which can take a minute."""
    credentials = Credentials(values["aws_access_key_id"], values["aws_secret_access_key"])
    try:
        keep_trying(lambda: send(values["scene_url"], b"{}", values["region"], credentials),
                    lambda error: error.code in UNKNOWN, NEW_KEY, PAUSE)
    except Refused as error:                        # that of an empty request means that the key is known
        if error.code in UNKNOWN:
            print("AWS does not know the new key everywhere yet: if a request is refused, wait a minute.")
    except UserError:
        pass                                        # no way to the endpoint from here: `invoke` says why


def confirm(options: Namespace, question: str) -> None:
    """Asks whether to continue. Raises UserError unless the answer is yes."""
    if options.yes:
        return
    # On stderr, since stdout may be redirected to a file.
    print(question, "Continue? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was changed: answer y, or add --yes.")


def invoke(options: Namespace, deployment: Deployment) -> None:
    """Asks the endpoint about a photo, and prints the answer as scene.predict does."""
    try:
        data = decode.read(options.photo, decode.REMOTE)
    except decode.PhotoError as error:
        raise UserError(f"{printable(options.photo)}: {error}.") from error
    answer = deployment.ask(options.mode, data)
    print(f"{printable(options.photo)}: {answer['scene']}")
    for name, p in answer["probabilities"].items():
        print(f"  {p:7.2%}  {name}")


def model(options: Namespace, deployment: Deployment) -> None:
    """Puts another model in service, and waits until the endpoint answers with it."""
    store = deployment.store()
    mode = options.rollback
    if mode:
        data = store.read_before(mode)
    else:
        data = read_model(options.path)
        with modelfile.named(options.path):
            mode = Classifier.load(data).mode
    check_readable(deployment, mode, data)
    store.put(store.model_key(mode), data)
    uploaded = time.monotonic()
    name = modelfile.short_name(data)
    print(f"Uploaded model {name} ({mode}). The endpoint checks for a new model once a minute.", flush=True)
    wait_for_model(deployment, mode, name)
    print(f"The endpoint answers with model {name}.")
    if (left := REFRESH - (time.monotonic() - uploaded)) > 0:
        until = datetime.now() + timedelta(seconds=left)
        print("This is proven for one sandbox of the function. Others that were already running may answer "
              f"with the model before until {until:%H:%M:%S}.")


def check_readable(deployment: Deployment, mode: str, data: bytes) -> None:
    """Makes the deployed code read a model before it goes into service. Raises UserError if it cannot."""
    with deployment.store().candidate(data):
        answer, failed = deployment.call({"try": mode})
    if reason := answer.get("errorMessage" if failed else "refused"):
        raise UserError(f"The deployed code cannot use this model ({reason}), so it was not put in service. "
                        "If it comes from a newer version of Scene, first run `python lambda/build.py` and "
                        f"`{line('up')}`.")


def wait_for_model(deployment: Deployment, mode: str, name: str) -> None:
    """Sends a black picture until the model of this name answers. Raises UserError if it takes too long."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    deadline = time.monotonic() + PATIENCE
    answer = None
    while answer != name:
        if answer and time.monotonic() > deadline:
            raise UserError(f"The endpoint still answers with model {answer}: see why with `{line('logs')}`.")
        if answer:
            time.sleep(PAUSE)
        answer = keep_trying(lambda: deployment.ask(mode, picture.getvalue()), may_pass,
                             deadline - time.monotonic(), PAUSE)["model"]


def may_pass(error: Refused) -> bool:
    """Whether the same request may be answered in a moment."""
    return error.status in PASSING


def status(options: Namespace, deployment: Deployment) -> None:
    """Prints the state of the endpoint: its stack, models, keys and alarms."""
    outputs = deployment.outputs
    store = deployment.store()
    print(f"stack     {deployment.name}: {deployment.stack.status}")
    print(f"endpoint  {outputs['Endpoint']}")
    print(f"bucket    {outputs['Bucket']}")
    print(f"version   {release.describe(deployment)}")
    for mode in MODES:
        if current := store.current(store.model_key(mode)):
            name = modelfile.short_name(store.read_model(mode))
            since = f"{current['LastModified']:%Y-%m-%d %H:%M} UTC"
            older = len(store.versions(store.model_key(mode))) - 1
            print(f"{mode:<10}model {name}, uploaded {since}, {older} older versions")
        else:
            print(f"{mode:<10}no model")
    keys = [f"{entry['AccessKeyId']} of {entry['CreateDate']:%Y-%m-%d}"
            for entry in deployment.access_keys(outputs["Caller"])]
    print(f"caller    {outputs['Caller']}, {' and '.join(keys) or 'no key yet'}")
    names = deployment.stack.resources("AWS::CloudWatch::Alarm")
    cloudwatch = deployment.client("cloudwatch")
    alarms = cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"] if names else []
    rings = [alarm["AlarmDescription"] for alarm in alarms if alarm["StateValue"] == "ALARM"]
    print(f"alarms    {'; '.join(rings) or 'none'}")


def logs(options: Namespace, deployment: Deployment) -> None:
    """Prints the recent log entries of the function and the gateway, in order."""
    since = int(1000 * (time.time() - 60 * options.minutes))
    paginator = deployment.client("logs").get_paginator("filter_log_events")
    events = []
    for source, group in deployment.log_groups.items():
        for page in paginator.paginate(logGroupName=group, startTime=since):
            events += [(event["timestamp"], source, event["message"].rstrip()) for event in page["events"]]
    for milliseconds, source, message in sorted(events):
        print(f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S} {source:<8} {message}")
    if not events:
        print(f"No log entries in the last {options.minutes} minutes.", file=sys.stderr)


def openapi(options: Namespace, deployment: Deployment) -> None:
    """Prints the endpoint's OpenAPI document, in JSON."""
    server = deployment.outputs["Endpoint"].removesuffix(interface.PATH)
    print(json.dumps(interface.document(server, interface.of_the_gateway(), interface.SIGNED), indent=2))


def down(options: Namespace, deployment: Deployment) -> None:
    """Deletes everything that `up`, `key` and `model` created, and verifies that nothing is left."""
    name = deployment.name
    for stack in deployment.stack, deployment.bucket_stack:
        stack.check_ours()
    bucket = own_bucket(deployment)
    if not deployment.stack.status:
        print(f"There is no stack {name} in {deployment.region}.")
    if any(look(deployment, bucket).values()):
        ours = deployment.bucket_stack.status
        objects = f"bucket {bucket}" if ours else f"all under {name}/ in bucket {bucket}, which stays"
        confirm(options, f"This deletes stack {name} in {deployment.region} (endpoint, user, keys, logs) "
                         f"and {objects}, models included.")
    take_down(deployment, bucket)


def run(options: Namespace) -> int | None:
    """Runs a command. Turns every error of AWS into a UserError."""
    try:
        return options.work(options, Deployment(options.stack, options.region, options.profile))
    except NoCredentialsError as error:
        raise UserError(f"No AWS credentials were found: {CREDENTIALS}.") from error
    except ClientError as error:
        code = error.response["Error"]["Code"]
        message = error.response["Error"]["Message"].rstrip(".")
        advice = f" ({ADVICE[code]})" if code in ADVICE else ""
        raise UserError(f"AWS refused {error.operation_name}, {code}: {message}{advice}.") from error
    except BotoCoreError as error:
        raise UserError(f"{str(error).rstrip('.')}.") from error


def matching(pattern: str, meaning: str) -> Callable[[str], str]:
    """An argparse type: text that matches the pattern."""
    def parse(text):
        if not re.fullmatch(pattern, text):
            raise ArgumentTypeError(f"{text!r} is not {meaning}")
        return text

    return parse


def stack_name(text: str) -> str:
    """An argparse type: a name for a deployment, and none that `up` would give to a bucket's stack."""
    name = matching("[a-z][a-z0-9-]{0,25}", "up to 26 lowercase letters, digits, hyphens")(text)
    if name.endswith(BUCKET_STACK):
        raise ArgumentTypeError(f"{text!r} would be the name of a bucket's stack: leave {BUCKET_STACK} out")
    return name


def parse(arguments: list[str] | None) -> Namespace:
    every = ArgumentParser(add_help=False)
    every.add_argument("--stack", metavar="NAME", default="scene", type=stack_name,
                       help="the deployment's name (default: scene)")
    every.add_argument("--region", help="AWS region (default: the profile's)")
    every.add_argument("--profile", metavar="NAME",
                       help="profile in ~/.aws/credentials (default: AWS_PROFILE, or boto3's default)")
    sure = ArgumentParser(add_help=False)
    sure.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser = ArgumentParser(
        prog="python -m cloudformation", description="Deploys the endpoint to AWS, and deletes it again.",
        epilog="exit codes: 0 done, 1 an unexpected failure, 2 an error that the message explains, "
               "130 stopped by Ctrl-C: run the same command again to finish")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(work, *parents):
        subparser = commands.add_parser(
            work.__name__, parents=[every, *parents], help=work.__doc__, description=work.__doc__)
        subparser.set_defaults(work=work)
        return subparser

    add_up(add(up))
    add(key, sure).add_argument("--show", action="store_true",
                                help="print the profile, with the secret key, instead of storing it")
    options = add(invoke)
    options.add_argument("photo", metavar="PHOTO", help="a JPEG or PNG file")
    options.add_argument("--mode", type=str.upper, choices=list(MODES), default="CNN",
                         help="the model that answers (default: CNN)")
    options = add(model).add_mutually_exclusive_group(required=True)
    options.add_argument("path", metavar="PATH", nargs="?", help="a model file written by scene.main")
    options.add_argument("--rollback", metavar="MODE", type=str.upper, choices=list(MODES),
                         help=f"{' or '.join(MODES)}: return to the model before the current one")
    add(status)
    add(logs).add_argument("--minutes", metavar="N", type=int, default=60, help="how far back (default: 60)")
    add(openapi)
    add(down, sure)
    return parser.parse_args(arguments)


def add_up(options: ArgumentParser) -> None:
    """Adds the options of `up`. A capitalised dest is a template parameter, which keeps its last value."""
    options.add_argument("--dry-run", action="store_true", help="only print the changes")
    options.add_argument("--rollback", action="store_true",
                         help="only return to the version of code, layer and settings before the current "
                              "one, or forward again")
    options.add_argument("--built", metavar="FOLDER", type=Path,
                         default=Path(__file__).resolve().parent.parent / "lambda" / "bucket",
                         help="the output of lambda/build.py (default: lambda/bucket)")
    options.add_argument("--bucket", metavar="NAME",
                         type=matching("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name"),
                         help="the bucket to use or create (default: STACK-ACCOUNT-REGION)")
    options.add_argument("--user", metavar="NAME", dest="UserName",
                         help="the IAM user to create, who may call the endpoint "
                              "(default: STACK-REGION-caller)")
    options.add_argument("--arch", dest="Architecture", choices=["arm64", "x86_64"],
                         help="the function's processor (default: arm64)")
    options.add_argument("--memory", metavar="MB", dest="Memory",
                         help="the function's memory (default: 1769, which gives it one core)")
    options.add_argument("--log-days", metavar="N", dest="LogDays", help="days to keep logs (default: 30)")
    options.add_argument("--rate", metavar="N", dest="RequestsPerSecond",
                         help="sustained requests per second (default: 10)")
    options.add_argument("--burst", metavar="N", dest="Burst", help="requests in a burst (default: 10)")
    options.add_argument("--concurrency", metavar="N", dest="Concurrency",
                         help="reserve N concurrent calls of the account's for the function, and allow no "
                              "more (default: none reserved)")
    options.add_argument("--snap-start", dest="SnapStart", choices=["yes", "no"],
                         help="start sandboxes from a snapshot with the models loaded (default: no)")
    options.add_argument("--cors", metavar="ORIGIN", dest="CorsOrigin",
                         help="the origin whose web pages may call the endpoint (default: none)")
    options.add_argument("--email", metavar="ADDRESS", dest="AlarmEmail",
                         help="address for alarms (default: none)")
    options.add_argument("--layers", metavar="ARN,…", dest="LayerArns",
                         help="your own layers instead of Scene's")
    options.add_argument("--arrays", dest="Arrays", choices=["numpy", "torch"],
                         help="torch needs --layers that include torch (default: numpy)")


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
