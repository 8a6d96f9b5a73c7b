"""Back to nothing, and proof of it.

CloudFormation deletes what the stacks hold. It does not delete what came to be beside them: the user's keys, the objects in the bucket,
and API Gateway's note of the role by which it writes logs.

Next: deploy.py
"""

import time

from deployment import exists
from scene.command import UserError
from stack import PAUSE


def take_down(deployment, bucket):
    """Deletes all that `up`, `key` and `model` made, and shows that nothing is left. Raises UserError."""
    outputs = deployment.stack.outputs
    # The stack goes after what it does not hold: until then an interrupted `down` can ask it what there is to delete.
    if outputs and exists(deployment.client("iam").get_user, UserName=outputs["Caller"]):
        deployment.delete_access_keys()
    forget_logging_role(deployment)
    deployment.store(bucket).empty()
    for stack in deployment.stack, deployment.bucket_stack:
        stack.delete()
    prove_gone(deployment, outputs, bucket)


def forget_logging_role(deployment):
    """If API Gateway writes the account's logs by the stack's role, has it use none: the role goes, and the note of it would stay."""
    gateway = deployment.client("apigateway")
    role = gateway.get_account().get("cloudwatchRoleArn") or ""
    if role.rpartition("/")[2].startswith(f"{deployment.name}-LoggingRole-"):
        gateway.update_account(patchOperations=[{"op": "replace", "path": "/cloudwatchRoleArn", "value": ""}])


def prove_gone(deployment, outputs, bucket):
    """Asks each service, not CloudFormation alone, for what there was. Raises UserError if something is still there."""
    for _ in range(10):             # some services take seconds to forget
        found = look(deployment, outputs, bucket)
        left = [what for what, there in found.items() if there]
        if not left:
            print(f"Looked for and not found: {', '.join(found)}. Nothing is left.")
            return
        time.sleep(PAUSE)
    raise UserError(f"Still there: {', '.join(left)}. Look in the AWS console what holds it.")


def look(deployment, outputs, bucket):
    """{what there was: something true if it is still there}."""
    client, name = deployment.client, deployment.name
    found = {f"stack {stack.name}": stack.status for stack in (deployment.stack, deployment.bucket_stack)}
    found[f"objects under {name}/ in {bucket}"] = deployment.store(bucket).entries()
    pages = client("lambda").get_paginator("list_layers").paginate()
    found["the layer"] = any(layer["LayerName"] == f"{name}-layer" for page in pages for layer in page["Layers"])
    for group in deployment.log_groups.values():
        groups = client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        found[f"log group {group}"] = any(entry["logGroupName"] == group for entry in groups)
    if outputs:
        found["the function"] = exists(client("lambda").get_function, FunctionName=outputs["Function"])
        found["the API"] = exists(client("apigateway").get_rest_api, restApiId=outputs["Endpoint"].split("/")[2].split(".")[0])
        found[f"user {outputs['Caller']}"] = exists(client("iam").get_user, UserName=outputs["Caller"])
    return found
