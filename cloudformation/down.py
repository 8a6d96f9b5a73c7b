"""Deletes a deployment and verifies that nothing is left.

CloudFormation deletes the stacks' resources. It leaves resources created outside of them: the user's access
keys, the objects in the bucket, and the account's setting for the role that writes API Gateway's logs.

Next: __main__.py
"""

import time

from cloudformation.deployment import Deployment, exists
from cloudformation.stack import PAUSE
from scene.errors import UserError


def take_down(deployment: Deployment, bucket: str) -> None:
    """Deletes everything that `up`, `key` and `model` created, and verifies it. Raises UserError."""
    outputs = deployment.stack.outputs
    # The stacks are deleted last: an interrupted `down` needs them to find the other resources.
    if outputs and exists(deployment.client("iam").get_user, UserName=outputs["Caller"]):
        deployment.delete_access_keys()
    unset_logging_role(deployment)
    deployment.store(bucket).empty()
    for stack in deployment.stack, deployment.bucket_stack:
        stack.delete()
    verify(deployment, outputs, bucket)


def unset_logging_role(deployment: Deployment) -> None:
    """Unsets the account's role for API Gateway's logs if the stack owns it: the setting would outlive it."""
    gateway = deployment.client("apigateway")
    role = gateway.get_account().get("cloudwatchRoleArn") or ""
    if role.rpartition("/")[2].startswith(f"{deployment.name}-LoggingRole-"):
        gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": ""}])


def verify(deployment: Deployment, outputs: dict[str, str], bucket: str) -> None:
    """Asks each service itself, not only CloudFormation. Raises UserError if something is left."""
    for _ in range(10):             # some services take seconds to catch up
        found = look(deployment, outputs, bucket)
        left = [name for name, there in found.items() if there]
        if not left:
            print(f"Deleted and verified: {', '.join(found)}. Nothing is left.")
            return
        time.sleep(PAUSE)
    raise UserError(f"Not deleted: {', '.join(left)}. Look in the AWS console for the reason.")


def look(deployment: Deployment, outputs: dict[str, str], bucket: str) -> dict[str, object]:
    """{resource: a true value if it still exists}."""
    client = deployment.client
    name = deployment.name
    found = {f"stack {stack.name}": stack.status for stack in (deployment.stack, deployment.bucket_stack)}
    found[f"objects under {name}/ in {bucket}"] = deployment.store(bucket).entries()
    pages = client("lambda").get_paginator("list_layers").paginate()
    layers = [layer["LayerName"] for page in pages for layer in page["Layers"]]
    found["the layer"] = f"{name}-layer" in layers
    for group in deployment.log_groups.values():
        groups = client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        found[f"log group {group}"] = any(entry["logGroupName"] == group for entry in groups)
    if outputs:
        api = outputs["Endpoint"].split("/")[2].split(".")[0]
        found["the function"] = exists(client("lambda").get_function, FunctionName=outputs["Function"])
        found["the API"] = exists(client("apigateway").get_rest_api, restApiId=api)
        found[f"user {outputs['Caller']}"] = exists(client("iam").get_user, UserName=outputs["Caller"])
    return found
