"""What the endpoint runs: versions of the function, and the alias `live` that points at one of them.

CloudFormation changes the function's code, layer and settings one after the other. A version is a copy of all
three that never changes, and the endpoint calls only the version at the alias. So requests see an update as
a whole, and `up --rollback` returns to the version before.

The stack creates the alias, and this module moves it. If CloudFormation did, each update would need a version
with a new logical name, derived from exactly those properties that make a version: with one too many, Lambda
refuses the update, since nothing has changed; with one too few, the endpoint keeps its old version. Here,
publishing twice gives the same version. Drift detection reports the alias, but CloudFormation never moves it
back, since the template always says the same.

Next: up.py
"""

import time

from botocore.exceptions import ClientError

from cloudformation import line
from cloudformation.deployment import ALIAS, Deployment
from cloudformation.stack import PAUSE
from scene.errors import UserError

PATIENCE = 60               # seconds for a new role to be known everywhere
ROLLED_BACK = "rolled back from "           # an alias's description, before the version that it left


def release(deployment: Deployment, coming: set[str]) -> None:
    """Publishes the function as it is, tries that version, and points the alias at it. Raises UserError.

    coming: the modes that are going to get a new model after this.
    """
    function = deployment.outputs["Function"]
    client = deployment.client("lambda")
    alias = client.get_alias(FunctionName=function, Name=ALIAS)
    before = alias["FunctionVersion"]
    version = client.publish_version(FunctionName=function)["Version"]      # the newest, if nothing changed
    if alias.get("Description") == ROLLED_BACK + version:
        print(f"  version {version} was rolled back, and version {before} stays: to use it again, "
              f"`{line('up --rollback')}`")
        return
    client.get_waiter("published_version_active").wait(FunctionName=function, Qualifier=version)
    stays = f"The endpoint stays at version {before}"
    models = attempt(deployment, version, stays)
    if bad := [mode for mode, found in models.items() if found == "model_unreadable" and mode not in coming]:
        raise UserError(f"Version {version} of the function cannot read the {' and '.join(bad)} model in the "
                        f"bucket. {stays}: give `{line('up')}` a new model with `lambda/build.py --model`.")
    if version != before:
        point(deployment, version, "")
        delete_others(deployment, {version, before})


def attempt(deployment: Deployment, version: str, stays: str) -> dict[str, str]:
    """Makes a version load all models: -> {mode: its model, or an error code}. Raises UserError.

    Waits while a new role is not yet known everywhere, so that the first request need not.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        late = time.monotonic() > deadline
        try:
            answer, failed = deployment.call({"warm": True}, version)
        except ClientError:
            if late:
                raise
            time.sleep(PAUSE)
            continue
        if failed:
            raise UserError(f"Version {version} of the function does not start: "
                            f"{answer.get('errorMessage', answer)}. {stays}. See `{line('logs')}`.")
        models = answer.get("warm", {})
        if late or not unknown_role(deployment, models):
            return models
        time.sleep(PAUSE)


def unknown_role(deployment: Deployment, models: dict[str, str]) -> bool:
    """Whether S3 refuses to the function a model that is there."""
    store = deployment.store()
    return any(store.current(store.model_key(mode)) for mode, found in models.items()
               if found in ("model_missing", "storage_unreachable"))


def roll_back(deployment: Deployment) -> None:
    """Points the alias at the version before, or back at the one that it left. Raises UserError."""
    client = deployment.client("lambda")
    alias = client.get_alias(FunctionName=deployment.outputs["Function"], Name=ALIAS)
    now = alias["FunctionVersion"]
    left = alias.get("Description", "").removeprefix(ROLLED_BACK)
    earlier = [version for version in versions(deployment) if now.isdigit() and version < int(now)]
    if left.isdigit() and int(left) in versions(deployment):
        point(deployment, left, "")
    elif earlier:
        point(deployment, str(max(earlier)), ROLLED_BACK + now)
    else:
        raise UserError(f"There is no version before {now}: nothing to roll back to.")


def point(deployment: Deployment, version: str, description: str) -> None:
    deployment.client("lambda").update_alias(FunctionName=deployment.outputs["Function"], Name=ALIAS,
                                             FunctionVersion=version, Description=description)
    print(f"The endpoint runs version {version}{f' ({description})' if description else ''}.", flush=True)


def versions(deployment: Deployment) -> list[int]:
    """The numbers of the published versions, in order."""
    pages = deployment.client("lambda").get_paginator("list_versions_by_function").paginate(
        FunctionName=deployment.outputs["Function"])
    found = [version["Version"] for page in pages for version in page["Versions"]]
    return sorted(int(version) for version in found if version.isdigit())


def delete_others(deployment: Deployment, keep: set[str]) -> None:
    """Deletes all versions but these: a snapshot of each costs money with SnapStart."""
    for version in map(str, versions(deployment)):
        if version not in keep:
            deployment.client("lambda").delete_function(
                FunctionName=deployment.outputs["Function"], Qualifier=version)


def describe(deployment: Deployment) -> str:
    """The version that the endpoint runs, for `status`."""
    alias = deployment.client("lambda").get_alias(FunctionName=deployment.outputs["Function"], Name=ALIAS)
    words = alias.get("Description")
    return f"{alias['FunctionVersion']}{f', {words}' if words else ''}"
