"""The endpoint on AWS, from nothing and back to nothing.

    python lambda/build.py                              makes what the function needs, in lambda/bucket/
    python cloudformation/deploy.py up                  the bucket, the uploads, the stack of template.yaml
    python cloudformation/deploy.py key                 a key for the one user who may ask, shown once
    python cloudformation/deploy.py invoke PHOTO        a signed request
    python cloudformation/deploy.py model PATH          another model in service; --rollback: the one before
    python cloudformation/deploy.py status | logs       how it is, what it said
    python cloudformation/deploy.py down                all of it gone, and proof
"""

import argparse
import hashlib
import io
import re
import sys
import time
from datetime import datetime
from pathlib import Path

try:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
except ImportError:
    sys.exit("deploy.py needs boto3: python -m pip install -c constraints.txt -e '.[cloud]'")
from PIL import Image

from deployment import Deployment, line
from down import take_down
from scene import command, modelfile, photo
from scene.command import UserError, printable
from scene.models import MODES
from stack import PAUSE
from up import up

PATIENCE = 150              # seconds for a new model to answer: the function looks for one once a minute
CREDENTIALS = "put a key of yours in ~/.aws/credentials, or log in, and name its profile with --profile"
PERMISSION = "these credentials lack that permission: use an administrator's"
ADVICE = {                  # AWS's codes -> what to do
    "ExpiredToken": "log in again",
    "ExpiredTokenException": "log in again",
    "RequestExpired": "log in again, and see that this machine's clock is right",
    "InvalidClientTokenId": CREDENTIALS,
    "UnrecognizedClientException": CREDENTIALS,
    "SignatureDoesNotMatch": "check the secret key, and this machine's clock",
    "AccessDenied": PERMISSION,
    "AccessDeniedException": PERMISSION,
    "Throttling": "wait a minute and run the same command again",
    "TooManyRequestsException": "wait a minute and run the same command again",
}


def key(options, deployment):
    """Makes a key for the user who may ask, and shows it once, as lines for ~/.aws/credentials."""
    outputs, name = deployment.outputs, deployment.name
    if name in deployment.session.available_profiles:
        raise UserError(f"Your AWS credentials have a profile [{name}] already: delete its lines there, the new key goes by that name.")
    if old := deployment.access_keys():
        confirm(options, f"{outputs['Caller']} has a key, of {old[0]['CreateDate']:%Y-%m-%d}. A new one replaces it: it will be refused.")
    deployment.delete_access_keys()
    new = deployment.client("iam").create_access_key(UserName=outputs["Caller"])["AccessKey"]
    print(f"[{name}]", f"aws_access_key_id = {new['AccessKeyId']}", f"aws_secret_access_key = {new['SecretAccessKey']}",
          f"region = {deployment.region}", f"scene_url = {outputs['Endpoint']}", sep="\n")
    print("This is shown once. The lines belong at the end of ~/.aws/credentials: this command with >> puts them there.\n"
          f"Next: {line(f'invoke PHOTO --profile {name}')}", file=sys.stderr)


def confirm(options, question):
    """Goes on only if the person says yes. Raises UserError."""
    if options.yes:
        return
    print(question, "Go on? [y/N] ", end="", file=sys.stderr, flush=True)       # stderr: stdout may be on its way into a file
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("Nothing was done: answer y, or add --yes.")


def invoke(options, deployment):
    """Asks the endpoint about a photo, and prints the answer as scene.predict does."""
    try:
        data = photo.read(options.photo, photo.REMOTE)
    except photo.PhotoError as error:
        raise UserError(f"{printable(options.photo)}: {error}.") from error
    answer = deployment.ask(options.mode, data)
    print(f"{printable(options.photo)}: {answer['scene']}")
    for name, p in answer["probabilities"].items():
        print(f"  {p:7.2%}  {name}")


def model(options, deployment):
    """Puts another model in service, and waits until the endpoint answers with it."""
    store, mode = deployment.store(), options.rollback
    if mode:
        data = store.roll_back(mode)
    else:
        data = Path(options.path).read_bytes()
        try:
            mode = modelfile.load(data)[1]["mode"]
        except modelfile.ModelFileError as error:
            raise UserError(f"{printable(options.path)} is not a usable model: {error}.") from error
        store.put(store.model_key(mode), data)
    name = short(data)
    print(f"Model {name} ({mode}) is in the bucket. The endpoint looks for a new one once a minute.", flush=True)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    deadline = time.monotonic() + PATIENCE
    while (answer := deployment.ask(mode, picture.getvalue())["model"]) != name:
        if time.monotonic() > deadline:
            raise UserError(f"The endpoint still answers with model {answer}: see why with `{line('logs')}`.")
        time.sleep(PAUSE)
    print(f"The endpoint answers with model {name}.")


def short(data):
    """What the endpoint calls a model: the first 12 hex digits of its file's SHA-256."""
    return hashlib.sha256(data).hexdigest()[:12]


def status(options, deployment):
    """Prints how the endpoint is: its stack, models, keys and alarms."""
    outputs, store = deployment.outputs, deployment.store()
    print(f"stack     {deployment.name}: {deployment.stack.status}")
    print(f"endpoint  {outputs['Endpoint']}")
    print(f"bucket    {outputs['Bucket']}")
    for mode in MODES:
        if versions := store.versions(store.model_key(mode)):
            since = f"{versions[0]['LastModified']:%Y-%m-%d %H:%M} UTC"
            print(f"{mode:<10}model {short(store.read_model(mode))}, in the bucket since {since}, {len(versions) - 1} older kept")
        else:
            print(f"{mode:<10}no model")
    keys = [f"{entry['AccessKeyId']} of {entry['CreateDate']:%Y-%m-%d}" for entry in deployment.access_keys()]
    print(f"caller    {outputs['Caller']}, {' and '.join(keys) or 'no key yet'}")
    alarms = deployment.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{deployment.name}-", StateValue="ALARM")["MetricAlarms"]
    print(f"alarms    {'; '.join(alarm['AlarmDescription'] for alarm in alarms) or 'none'}")


def logs(options, deployment):
    """Prints what the function and the gateway logged of late, in order."""
    since, events = int(1000 * (time.time() - 60 * options.minutes)), []
    for source, group in deployment.log_groups.items():
        pages = deployment.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group, startTime=since)
        events += [(event["timestamp"], source, event["message"].rstrip()) for page in pages for event in page["events"]]
    for milliseconds, source, message in sorted(events):
        print(f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S} {source:<8} {message}")
    if not events:
        print(f"Nothing in the last {options.minutes} minutes.", file=sys.stderr)


def down(options, deployment):
    """Takes away all that `up`, `key` and `model` made, and shows that nothing is left."""
    name, ours = deployment.name, deployment.bucket_stack
    bucket = deployment.stack.parameters.get("Bucket") or ours.parameters.get("BucketName")
    if not bucket:
        print(f"There is no stack {name} in {deployment.region}: nothing to take down.")
        return
    kept = f"bucket {bucket}" if ours.exists else f"all under {name}/ in bucket {bucket}, which stays"
    confirm(options, f"This deletes stack {name} in {deployment.region}: endpoint, user, keys, logs; and {kept}, models included.")
    take_down(deployment, bucket)


def run(options):
    """Does what was asked. Every error of AWS becomes a sentence."""
    try:
        return options.work(options, Deployment(options.stack, options.region, options.profile))
    except NoCredentialsError as error:
        raise UserError(f"There are no AWS credentials here: {CREDENTIALS}.") from error
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        advice = f" ({ADVICE[code]})" if code in ADVICE else ""
        raise UserError(f"AWS refused {error.operation_name}, {code}: {message.rstrip('.')}{advice}.") from error
    except BotoCoreError as error:
        raise UserError(f"{str(error).rstrip('.')}.") from error


def matching(pattern, meaning):
    """An argparse type: text that matches the pattern."""
    def parse(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {meaning}")
        return text

    return parse


def parse(arguments):
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--stack", metavar="NAME", default="scene", help="what all is called after (default: scene)",
                       type=matching("[a-z][a-z0-9-]{0,25}", "up to 26 small letters, digits and hyphens"))
    every.add_argument("--region", help="AWS region (default: the profile's)")
    every.add_argument("--profile", metavar="NAME", help="profile in ~/.aws/credentials (default: AWS_PROFILE, or what boto3 finds)")
    sure = argparse.ArgumentParser(add_help=False)
    sure.add_argument("--yes", action="store_true", help="ask nothing")
    parser = argparse.ArgumentParser(
        prog="python cloudformation/deploy.py", description="The endpoint on AWS, from nothing and back to nothing.",
        epilog="exit codes: 0 done, 1 something unforeseen, 2 what the sentence says, 130 stopped by Ctrl-C: run it again")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(work, *parents):
        subparser = commands.add_parser(work.__name__, parents=[every, *parents], help=work.__doc__, description=work.__doc__)
        subparser.set_defaults(work=work)
        return subparser

    add_up(add(up))
    add(key, sure)
    options = add(invoke)
    options.add_argument("photo", metavar="PHOTO", help="a JPEG or PNG")
    options.add_argument("--mode", type=str.upper, choices=list(MODES), default="CNN", help="which model answers (default: CNN)")
    options = add(model).add_mutually_exclusive_group(required=True)
    options.add_argument("path", metavar="PATH", nargs="?", help="a model file that scene.main has written")
    options.add_argument("--rollback", metavar="MODE", type=str.upper, choices=list(MODES), help="FCNN or CNN: the model before, again")
    add(status)
    add(logs).add_argument("--minutes", metavar="N", type=int, default=60, help="how far back (default: 60)")
    add(down, sure)
    return parser.parse_args(arguments)


def add_up(options):
    """The options of `up`. Those kept under a name in capitals are the template's parameters; one not given stays as it is."""
    options.add_argument("--dry-run", action="store_true", help="only print what would change")
    options.add_argument("--built", metavar="FOLDER", type=Path, default=Path(__file__).resolve().parent.parent / "lambda" / "bucket",
                         help="what lambda/build.py wrote (default: lambda/bucket)")
    options.add_argument("--bucket", metavar="NAME", type=matching("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name"),
                         help="the bucket to use, or to make (default: STACK-ACCOUNT-REGION)")
    options.add_argument("--user", metavar="NAME", dest="UserName", help="the IAM user to make, who may ask (default: scene-caller)")
    options.add_argument("--arch", dest="Architecture", choices=["arm64", "x86_64"], help="the function's processor (default: arm64)")
    options.add_argument("--memory", metavar="MB", dest="Memory", help="the function's memory (default: 1769, which buys one core)")
    options.add_argument("--log-days", metavar="N", dest="LogDays", help="how long logs are kept (default: 30)")
    options.add_argument("--rate", metavar="N", dest="RequestsPerSecond", help="requests a second, for long (default: 10)")
    options.add_argument("--burst", metavar="N", dest="Burst", help="requests at once (default: 20)")
    options.add_argument("--email", metavar="ADDRESS", dest="AlarmEmail", help="where alarms go (default: nowhere)")
    options.add_argument("--layers", metavar="ARN,…", dest="LayerArns", help="your own layers in place of ours")
    options.add_argument("--arrays", dest="Arrays", choices=["numpy", "torch"], help="torch needs --layers with torch (default: numpy)")


if __name__ == "__main__":
    sys.exit(command.run(run, parse(None)))
