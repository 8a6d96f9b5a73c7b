"""From nothing, or from what there is, to the endpoint as template.yaml and lambda/bucket/ have it.

First the bucket, in a stack of its own; then the uploads; then the endpoint's stack, whose function needs them.

Next: down.py
"""

import hashlib
from pathlib import Path

from botocore.exceptions import ClientError

from deployment import exists, line
from scene.command import UserError, printable
from scene.models import MODES

HERE = Path(__file__).resolve().parent


def up(options, deployment):
    """Creates the endpoint, or brings it up to date."""
    account = deployment.client("sts").get_caller_identity()["Account"]
    before = deployment.stack.parameters if deployment.stack.exists else {}
    bucket = choose_bucket(options, deployment, before, account)
    chosen = {name: value for name, value in vars(options).items() if name[0].isupper() and value is not None}
    parameters = before | chosen | {"Bucket": bucket, "OwnsLoggingRole": owns_logging_role(deployment, before)}
    files = built(options.built, parameters)
    print(f"Account {account}, region {deployment.region}, bucket {bucket}", flush=True)

    make_bucket(deployment, bucket, options.dry_run)
    store = deployment.store(bucket)
    parameters["CodeKey"] = store.put_zip(files["code"], options.dry_run)
    parameters["LayerKey"] = store.put_zip(files["layer"], options.dry_run) if "layer" in files else ""
    for mode in MODES:
        store.put_model(files[mode], mode, options.dry_run)
    deployment.stack.apply(template(), parameters, options.dry_run)
    if options.dry_run:
        print("A dry run: nothing was changed.")
        return
    print(f"Endpoint: {deployment.outputs['Endpoint']}")
    print(f"Next: {line('invoke PHOTO' if deployment.access_keys() else 'key')}")


def choose_bucket(options, deployment, before, account):
    """The name of the bucket: the one in use, or the one asked for, or one made up. Raises UserError."""
    made = deployment.bucket_stack.parameters.get("BucketName") if deployment.bucket_stack.exists else None
    used = before.get("Bucket") or made
    if used and options.bucket not in (None, used):
        raise UserError(f"Stack {deployment.name} keeps its models in bucket {used}: leave --bucket away, or take it down first.")
    return used or options.bucket or f"{deployment.name}-{account}-{deployment.region}"


def owns_logging_role(deployment, before):
    """"yes" if the stack has to set the role by which API Gateway writes logs, "no" if the account has one that exists."""
    if before.get("OwnsLoggingRole") == "yes":
        return "yes"
    arn = deployment.client("apigateway").get_account().get("cloudwatchRoleArn")
    return "no" if arn and exists(deployment.client("iam").get_role, RoleName=arn.rpartition("/")[2]) else "yes"


def built(folder, parameters):
    """The files that build.py left: {"code", "layer", and each mode: path}, no layer where LayerArns are given. Raises UserError."""
    arch = parameters.get("Architecture", "arm64")
    files = {"code": folder / "get_scene.zip"} | {mode: folder / f"model_{mode}" for mode in MODES}
    if not parameters.get("LayerArns"):
        files["layer"] = folder / f"layer-{arch}.zip"
    missing = [path.name for path in files.values() if not path.exists()]
    if missing:
        raise UserError(f"{printable(folder)} has no {', '.join(missing)}: run `python lambda/build.py --arch {arch}` first.")
    return files


def make_bucket(deployment, bucket, dry_run):
    """Makes the bucket, or brings it up to date if it is ours, or sees whether one that is there will do. Raises UserError."""
    if not deployment.bucket_stack.exists:
        try:
            region = deployment.client("s3").head_bucket(Bucket=bucket).get("BucketRegion", deployment.region)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise UserError(f"Bucket {bucket} is not yours to use: choose another name with --bucket.") from error
        else:
            check_bucket(deployment, bucket, region)
            return
    deployment.bucket_stack.apply((HERE / "bucket.yaml").read_text(encoding="utf-8"), {"BucketName": bucket}, dry_run)


def check_bucket(deployment, bucket, region):
    """Raises UserError if a bucket that we did not make will not do."""
    if region != deployment.region:
        raise UserError(f"Bucket {bucket} is in {region}: Lambda needs one in {deployment.region}.")
    if deployment.client("s3").get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        raise UserError(f"Bucket {bucket} keeps no versions, and `model --rollback` needs them: turn them on, or name another bucket.")


def template():
    """template.yaml, the API's deployment in it named after the whole: it is a snapshot, and only a new name makes a new one."""
    text = (HERE / "template.yaml").read_text(encoding="utf-8")
    return text.replace("Deployment0", f"Deployment{hashlib.sha256(text.encode()).hexdigest()[:12]}")
