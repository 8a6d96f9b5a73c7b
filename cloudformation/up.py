"""Creates or updates the endpoint, from template.yaml and the files in lambda/bucket/.

First the bucket, in a stack of its own, then the uploads, then the endpoint's stack, which needs the uploads.

Next: down.py
"""

import hashlib
from argparse import Namespace
from pathlib import Path

from botocore.exceptions import ClientError

from cloudformation import line
from cloudformation.deployment import Deployment, exists
from scene.errors import UserError, printable
from scene.models import MODES

HERE = Path(__file__).resolve().parent


def up(options: Namespace, deployment: Deployment) -> None:
    """Creates or updates the endpoint."""
    account = deployment.client("sts").get_caller_identity()["Account"]
    before = deployment.stack.parameters if deployment.stack.exists else {}
    bucket = choose_bucket(options, deployment, before, account)
    chosen = {name: value for name, value in vars(options).items() if name[0].isupper() and value is not None}
    parameters = before | chosen
    parameters |= {"Bucket": bucket, "OwnsLoggingRole": owns_logging_role(deployment, before)}
    files = built(options.built, parameters)
    print(f"Account {account}, region {deployment.region}, bucket {bucket}", flush=True)

    make_bucket(deployment, bucket, options.dry_run)
    store = deployment.store(bucket)
    parameters["CodeKey"] = store.put_zip(files["code"], options.dry_run)
    parameters["LayerKey"] = store.put_zip(files["layer"], options.dry_run) if "layer" in files else ""
    for mode in MODES:
        if mode in files:
            store.put_model(files[mode], mode, options.dry_run)
    deployment.stack.apply(template(), parameters, options.dry_run)
    if options.dry_run:
        print("This was a dry run: nothing was changed.")
        return
    print(f"Endpoint: {deployment.outputs['Endpoint']}")
    print(f"Next: {line('invoke PHOTO' if deployment.access_keys() else 'key')}")


def choose_bucket(options: Namespace, deployment: Deployment, before: dict[str, str], account: str) -> str:
    """The bucket in use, else the one that --bucket names, else a default name. Raises UserError."""
    made = deployment.bucket_stack.parameters.get("BucketName") if deployment.bucket_stack.exists else None
    used = before.get("Bucket") or made
    if used and options.bucket not in (None, used):
        raise UserError(f"Stack {deployment.name} already uses bucket {used}: leave --bucket out, "
                        "or deploy another stack with --stack.")
    return used or options.bucket or f"{deployment.name}-{account}-{deployment.region}"


def owns_logging_role(deployment: Deployment, before: dict[str, str]) -> str:
    """Whether the stack must set the role with which API Gateway writes logs: "no" if the account has one."""
    if before.get("OwnsLoggingRole") == "yes":
        return "yes"
    arn = deployment.client("apigateway").get_account().get("cloudwatchRoleArn")
    if not arn:
        return "yes"
    # The setting may name a role that has been deleted.
    return "no" if exists(deployment.client("iam").get_role, RoleName=arn.rpartition("/")[2]) else "yes"


def built(folder: Path, parameters: dict[str, str]) -> dict[str, Path]:
    """The files that build.py wrote: {"code", "layer" and modes: path}. Raises UserError if one is missing.

    The layer is not needed where LayerArns are given, nor the model of a mode that has no pretrained one.
    """
    arch = parameters.get("Architecture", "arm64")
    files = {"code": folder / "get_scene.zip"}
    for mode, entry in MODES.items():
        path = folder / f"model_{mode}"
        if entry.pretrained or path.exists():
            files[mode] = path
    if not parameters.get("LayerArns"):
        files["layer"] = folder / f"layer-{arch}.zip"
    missing = [path.name for path in files.values() if not path.exists()]
    if missing:
        raise UserError(f"{printable(folder)} has no {', '.join(missing)}: "
                        f"run `python lambda/build.py --arch {arch}` first.")
    return files


def make_bucket(deployment: Deployment, bucket: str, dry_run: bool) -> None:
    """Creates or updates our bucket, or checks one that exists without our stack. Raises UserError."""
    if not deployment.bucket_stack.exists:
        try:
            region = deployment.client("s3").head_bucket(Bucket=bucket).get("BucketRegion", deployment.region)
        except ClientError as error:
            if error.response["Error"]["Code"] != "404":
                raise UserError(f"No access to bucket {bucket}: name another with --bucket.") from error
        else:
            check_bucket(deployment, bucket, region)
            return
    bucket_template = (HERE / "bucket.yaml").read_text(encoding="utf-8")
    deployment.bucket_stack.apply(bucket_template, {"BucketName": bucket}, dry_run)


def check_bucket(deployment: Deployment, bucket: str, region: str) -> None:
    """Raises UserError if a bucket that we did not create cannot be used."""
    if region != deployment.region:
        raise UserError(f"Bucket {bucket} is in {region}, but Lambda needs one in {deployment.region}: "
                        "name another with --bucket.")
    if deployment.client("s3").get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        raise UserError(f"Bucket {bucket} has no versioning, which `model --rollback` needs: "
                        "enable it, or name another bucket with --bucket.")


def template() -> str:
    """template.yaml, with the API's deployment renamed after a hash of the file.

    A deployment is a snapshot of the API: only one with a new name includes later changes.
    """
    text = (HERE / "template.yaml").read_text(encoding="utf-8")
    return text.replace("Deployment0", f"Deployment{hashlib.sha256(text.encode()).hexdigest()[:12]}")
