"""Creates or updates the endpoint, from template.yaml and the files in lambda/bucket/.

First the bucket, in a stack of its own, then the zips, then the endpoint's stack, which needs the zips, then
the version that it runs. Models come last: an older version of the code may be unable to read a new one. Only
where there is no endpoint yet they come before it, so that its first version finds them.

Next: down.py
"""

from argparse import Namespace
from pathlib import Path

from botocore.exceptions import ClientError

from cloudformation import line, release
from cloudformation.deployment import Deployment, exists
from cloudformation.render import HERE, template
from cloudformation.stack import ONLY_DELETE
from cloudformation.store import Store, read_model
from scene.errors import UserError, printable
from scene.models import MODES


def up(options: Namespace, deployment: Deployment) -> None:
    """Creates or updates the endpoint."""
    if options.rollback:
        release.roll_back(deployment)
        return
    for stack in deployment.stack, deployment.bucket_stack:
        stack.check_ours()
    stands = deployment.stack.exists
    before = deployment.stack.parameters if stands else {}
    bucket = choose_bucket(options, deployment, before)
    chosen = {name: value for name, value in vars(options).items() if name[0].isupper() and value is not None}
    parameters = before | chosen
    parameters |= {"Bucket": bucket, "OwnsLoggingRole": owns_logging_role(deployment, before)}
    files = built(options.built, parameters)
    models = {mode: files[mode] for mode in MODES if mode in files}
    for path in models.values():
        read_model(path)                            # refuses one that is too large, before anything changes
    print(f"Account {deployment.account}, region {deployment.region}, bucket {bucket}", flush=True)

    make_bucket(deployment, bucket, options.dry_run)
    store = deployment.store(bucket)
    parameters["CodeKey"] = store.put_zip(files["code"], options.dry_run)
    parameters["LayerKey"] = store.put_zip(files["layer"], options.dry_run) if "layer" in files else ""
    if not stands:
        put_models(store, models, options.dry_run)
    free_users(deployment, chosen, options.dry_run)
    deployment.stack.apply(template(parameters), parameters, options.dry_run)
    if not options.dry_run:
        release.release(deployment, coming=set(models))
    if stands:
        put_models(store, models, options.dry_run)
    if options.dry_run:
        print("This was a dry run: nothing was changed.")
        return
    print(f"Endpoint: {deployment.outputs['Endpoint']}")
    has_key = deployment.access_keys(deployment.outputs["Caller"])
    print(f"Next: {line('invoke PHOTO' if has_key else 'key')}")


def put_models(store: Store, models: dict[str, Path], dry_run: bool) -> None:
    for mode, path in models.items():
        store.put_model(path, mode, dry_run)


def free_users(deployment: Deployment, chosen: dict[str, str], dry_run: bool) -> None:
    """Deletes the keys of users that CloudFormation is about to delete: a user with a key would stay, and so
    would the access of whoever has that key."""
    caller = deployment.stack.outputs.get("Caller")
    name = chosen.get("UserName", caller) or f"{deployment.name}-{deployment.region}-caller"
    renamed = caller and name != caller
    if not renamed and deployment.stack.status not in ONLY_DELETE:
        return
    for user in deployment.users():
        for entry in deployment.access_keys(user):
            print(f"  delete key {entry['AccessKeyId']} of {user}: its requests will be refused", flush=True)
        if not dry_run:
            deployment.delete_access_keys(user)


def choose_bucket(options: Namespace, deployment: Deployment, before: dict[str, str]) -> str:
    """The bucket in use, else the one that --bucket names, else a default name. Raises UserError."""
    made = deployment.bucket_stack.parameters.get("BucketName") if deployment.bucket_stack.exists else None
    used = before.get("Bucket") or made
    if used and options.bucket not in (None, used):
        raise UserError(f"Stack {deployment.name} already uses bucket {used}: leave --bucket out, "
                        "or deploy another stack with --stack.")
    return used or options.bucket or deployment.default_bucket


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
    try:
        region = deployment.client("s3").head_bucket(Bucket=bucket).get("BucketRegion", deployment.region)
    except ClientError as error:
        if error.response["Error"]["Code"] != "404":
            raise UserError(f"Bucket {bucket} belongs to another account, or these credentials have no "
                            "access to it: name another with --bucket.") from error
    else:
        if not deployment.bucket_stack.exists:
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
