"""Deletes a deployment and verifies that nothing is left.

CloudFormation deletes the stacks' resources. It leaves what was created outside of them: the user's access
keys, the objects in the bucket, a user that an earlier `up --user` replaced; and the role with which API
Gateway writes logs, which is the account's and other APIs may need.

Next: __main__.py
"""

import re
import time

from botocore.exceptions import ClientError

from cloudformation.deployment import Deployment, exists
from cloudformation.stack import PAUSE
from scene.errors import UserError


def take_down(deployment: Deployment, bucket: str | None) -> None:
    """Deletes everything that `up`, `key` and `model` created, and verifies it. Raises UserError."""
    # The stacks are deleted late: an interrupted `down` needs them to find the other resources.
    for user in deployment.users():
        deployment.delete_access_keys(user)
    if bucket:
        deployment.store(bucket).empty()
    for stack in deployment.stack, deployment.bucket_stack:
        stack.delete()
    for user in deployment.users():
        delete_user(deployment, user)
    for role in logging_roles(deployment):
        delete_logging_role(deployment, role)
    verify(deployment, bucket)


def own_bucket(deployment: Deployment) -> str | None:
    """The deployment's bucket, or None if it is gone. Raises UserError if it cannot be reached."""
    used = deployment.stack.parameters.get("Bucket") or deployment.bucket_stack.parameters.get("BucketName")
    bucket = used or deployment.default_bucket
    try:
        deployment.client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        if used and error.response["Error"]["Code"] != "404":
            raise UserError(f"Bucket {bucket} belongs to another account, or these credentials have no "
                            "access to it, so nothing was deleted.") from error
        return None                     # the default name, taken by somebody else: nothing of ours is there
    return bucket


def delete_user(deployment: Deployment, user: str) -> None:
    """Deletes a user that has no stack any more, with its policies."""
    iam = deployment.client("iam")
    for policy in iam.list_user_policies(UserName=user)["PolicyNames"]:
        iam.delete_user_policy(UserName=user, PolicyName=policy)
    iam.delete_user(UserName=user)


def logging_roles(deployment: Deployment) -> list[str]:
    """The roles for API Gateway's logs that Scene's stacks made in this region, unless a stage needs them."""
    if deployment.stack.exists or logging_stage(deployment):
        return []
    pages = deployment.client("iam").get_paginator("list_roles").paginate(
        PathPrefix=f"/scene/logging/{deployment.region}/")
    return [role["RoleName"] for page in pages for role in page["Roles"]]


def delete_logging_role(deployment: Deployment, role: str) -> None:
    """Deletes a role, and the account's setting that names it."""
    gateway = deployment.client("apigateway")
    if (gateway.get_account().get("cloudwatchRoleArn") or "").rpartition("/")[2] == role:
        gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": ""}])
    iam = deployment.client("iam")
    for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    iam.delete_role(RoleName=role)


def logging_stage(deployment: Deployment) -> str | None:
    """A stage in this region, as "API/stage", that writes logs with the account's role. None if none does.

    REST and WebSocket APIs need that role, HTTP APIs do not.
    """
    rest = deployment.client("apigateway")
    for page in rest.get_paginator("get_rest_apis").paginate():
        for api in page["items"]:
            for stage in rest.get_stages(restApiId=api["id"])["item"]:
                settings = stage.get("methodSettings", {}).values()
                levels = {each.get("loggingLevel", "OFF") for each in settings}
                if stage.get("accessLogSettings") or levels - {"OFF"}:
                    return f"{api['name']}/{stage['stageName']}"
    socket = deployment.client("apigatewayv2")
    for api in socket.get_apis()["Items"]:
        if api["ProtocolType"] == "WEBSOCKET":
            for stage in socket.get_stages(ApiId=api["ApiId"])["Items"]:
                level = stage.get("DefaultRouteSettings", {}).get("LoggingLevel", "OFF")
                if stage.get("AccessLogSettings") or level != "OFF":
                    return f"{api['Name']}/{stage['StageName']}"
    return None


def verify(deployment: Deployment, bucket: str | None) -> None:
    """Asks each service itself, not only CloudFormation. Raises UserError if something is left."""
    for _ in range(10):             # some services take seconds to catch up
        found = look(deployment, bucket)
        left = [name for name, there in found.items() if there]
        if not left:
            print(f"Deleted and verified: {', '.join(found)}. Nothing is left.")
            if stage := logging_stage(deployment):
                print(f"The role for API Gateway's logs stays: stage {stage} writes logs with it.")
            return
        time.sleep(PAUSE)
    raise UserError(f"Not deleted: {', '.join(left)}. Look in the AWS console for the reason.")


def look(deployment: Deployment, bucket: str | None) -> dict[str, object]:
    """{resource: a true value if it still exists}."""
    client = deployment.client
    name = deployment.name
    found = {f"stack {stack.name}": stack.status for stack in (deployment.stack, deployment.bucket_stack)}
    found[f"objects under {name}/"] = bucket and deployment.store(bucket).entries()
    found["the function"] = exists(client("lambda").get_function, FunctionName=f"{name}-get_scene")
    pages = client("lambda").get_paginator("list_layers").paginate()
    found["the layer"] = f"{name}-layer" in [layer["LayerName"] for page in pages for layer in page["Layers"]]
    pages = client("apigateway").get_paginator("get_rest_apis").paginate()
    found["the API"] = [api for page in pages for api in page["items"] if api["name"] == name]
    found["users and keys"] = deployment.users()
    found["roles"] = logging_roles(deployment)
    for group in deployment.log_groups.values():
        groups = client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        found[f"log group {group}"] = any(entry["logGroupName"] == group for entry in groups)
    boards = client("cloudwatch").list_dashboards(DashboardNamePrefix=name)["DashboardEntries"]
    found["the dashboard"] = any(entry["DashboardName"] == name for entry in boards)
    alarms = client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{name}-")["MetricAlarms"]
    generated = re.compile(rf"{name}-[A-Z][A-Za-z]+-[A-Za-z0-9]{{12,}}")      # not those of {name}-test
    found["alarms"] = [alarm for alarm in alarms if generated.fullmatch(alarm["AlarmName"])]
    return found
