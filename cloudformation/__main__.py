"""Deploys the endpoint to AWS, and deletes it again.

    python lambda/build.py                       builds the zips and the models, in lambda/bucket/
    python -m cloudformation up                  the bucket, the uploads, the stack of template.yaml
    python -m cloudformation key                 an access key for the endpoint's user, shown once
    python -m cloudformation invoke PHOTO        a signed request
    python -m cloudformation model PATH          puts another model in service (--rollback: the one before)
    python -m cloudformation status | logs       its state, and its logs
    python -m cloudformation down                deletes everything, and verifies it
"""

import io
import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

try:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
except ImportError:
    sys.exit("python -m cloudformation needs boto3: python -m pip install -c constraints.txt -e '.[cloud]'")
from PIL import Image

from cloudformation import line
from cloudformation.deployment import Deployment
from cloudformation.down import take_down
from cloudformation.stack import PAUSE
from cloudformation.up import up
from scene import errors
from scene.answer import modelfile
from scene.answer.classifier import Classifier
from scene.errors import UserError, printable
from scene.models import MODES
from scene.photos import decode

PATIENCE = 150              # seconds for a new model to answer: the function checks for one once a minute
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
    """Creates an access key for the endpoint's user, and prints it once, as lines for ~/.aws/credentials."""
    outputs = deployment.outputs
    name = deployment.name
    if name in deployment.session.available_profiles:
        raise UserError(f"Your AWS credentials already have a profile [{name}]: rename or remove it, "
                        "since the lines for the new key use that name.")
    if old := deployment.access_keys():
        confirm(options, f"{outputs['Caller']} already has a key, of {old[0]['CreateDate']:%Y-%m-%d}. "
                         "A new key replaces it: requests signed with the old one will be refused.")
    deployment.delete_access_keys()
    new = deployment.client("iam").create_access_key(UserName=outputs["Caller"])["AccessKey"]
    print(f"[{name}]",
          f"aws_access_key_id = {new['AccessKeyId']}",
          f"aws_secret_access_key = {new['SecretAccessKey']}",
          f"region = {deployment.region}",
          f"scene_url = {outputs['Endpoint']}", sep="\n")
    print("These lines belong at the end of ~/.aws/credentials. The secret key is not shown again.\n"
          f"Next: {line(f'invoke PHOTO --profile {name}')}", file=sys.stderr)


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
        data = store.roll_back(mode)
    else:
        data = Path(options.path).read_bytes()
        with modelfile.named(options.path):
            mode = Classifier.load(data).mode
        store.put(store.model_key(mode), data)
    name = modelfile.short_name(data)
    print(f"Uploaded model {name} ({mode}). The endpoint checks for a new model once a minute.", flush=True)
    wait_for_model(deployment, mode, name)
    print(f"The endpoint answers with model {name}.")


def wait_for_model(deployment: Deployment, mode: str, name: str) -> None:
    """Sends a black picture until the model of this name answers. Raises UserError if it takes too long."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    deadline = time.monotonic() + PATIENCE
    while (answer := deployment.ask(mode, picture.getvalue())["model"]) != name:
        if time.monotonic() > deadline:
            raise UserError(f"The endpoint still answers with model {answer}: see why with `{line('logs')}`.")
        time.sleep(PAUSE)


def status(options: Namespace, deployment: Deployment) -> None:
    """Prints the state of the endpoint: its stack, models, keys and alarms."""
    outputs = deployment.outputs
    store = deployment.store()
    print(f"stack     {deployment.name}: {deployment.stack.status}")
    print(f"endpoint  {outputs['Endpoint']}")
    print(f"bucket    {outputs['Bucket']}")
    for mode in MODES:
        if versions := store.versions(store.model_key(mode)):
            name = modelfile.short_name(store.read_model(mode))
            since = f"{versions[0]['LastModified']:%Y-%m-%d %H:%M} UTC"
            print(f"{mode:<10}model {name}, uploaded {since}, {len(versions) - 1} older versions")
        else:
            print(f"{mode:<10}no model")
    keys = [f"{entry['AccessKeyId']} of {entry['CreateDate']:%Y-%m-%d}" for entry in deployment.access_keys()]
    print(f"caller    {outputs['Caller']}, {' and '.join(keys) or 'no key yet'}")
    alarms = deployment.client("cloudwatch").describe_alarms(
        AlarmNamePrefix=f"{deployment.name}-", StateValue="ALARM")["MetricAlarms"]
    print(f"alarms    {'; '.join(alarm['AlarmDescription'] for alarm in alarms) or 'none'}")


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


def down(options: Namespace, deployment: Deployment) -> None:
    """Deletes everything that `up`, `key` and `model` created, and verifies that nothing is left."""
    name = deployment.name
    ours = deployment.bucket_stack
    bucket = deployment.stack.parameters.get("Bucket") or ours.parameters.get("BucketName")
    if not bucket:
        print(f"There is no stack {name} in {deployment.region}: nothing to delete.")
        return
    objects = f"bucket {bucket}" if ours.exists else f"all under {name}/ in bucket {bucket}, which stays"
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


def parse(arguments: list[str] | None) -> Namespace:
    every = ArgumentParser(add_help=False)
    every.add_argument("--stack", metavar="NAME", default="scene",
                       type=matching("[a-z][a-z0-9-]{0,25}", "up to 26 lowercase letters, digits, hyphens"),
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
    add(key, sure)
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
    add(down, sure)
    return parser.parse_args(arguments)


def add_up(options: ArgumentParser) -> None:
    """Adds the options of `up`. A capitalised dest is a template parameter, which keeps its last value."""
    options.add_argument("--dry-run", action="store_true", help="only print the changes")
    options.add_argument("--built", metavar="FOLDER", type=Path,
                         default=Path(__file__).resolve().parent.parent / "lambda" / "bucket",
                         help="the output of lambda/build.py (default: lambda/bucket)")
    options.add_argument("--bucket", metavar="NAME",
                         type=matching("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name"),
                         help="the bucket to use or create (default: STACK-ACCOUNT-REGION)")
    options.add_argument("--user", metavar="NAME", dest="UserName",
                         help="the IAM user to create, who may call the endpoint (default: scene-caller)")
    options.add_argument("--arch", dest="Architecture", choices=["arm64", "x86_64"],
                         help="the function's processor (default: arm64)")
    options.add_argument("--memory", metavar="MB", dest="Memory",
                         help="the function's memory (default: 1769, which gives it one core)")
    options.add_argument("--log-days", metavar="N", dest="LogDays", help="days to keep logs (default: 30)")
    options.add_argument("--rate", metavar="N", dest="RequestsPerSecond",
                         help="sustained requests per second (default: 10)")
    options.add_argument("--burst", metavar="N", dest="Burst", help="requests in a burst (default: 20)")
    options.add_argument("--email", metavar="ADDRESS", dest="AlarmEmail",
                         help="address for alarms (default: none)")
    options.add_argument("--layers", metavar="ARN,…", dest="LayerArns",
                         help="your own layers instead of Scene's")
    options.add_argument("--arrays", dest="Arrays", choices=["numpy", "torch"],
                         help="torch needs --layers that include torch (default: numpy)")


if __name__ == "__main__":
    sys.exit(errors.run(run, parse(None)))
