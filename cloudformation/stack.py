"""One CloudFormation stack: creates or updates it by a change set, deletes it, and prints its events.

A command may be interrupted at any point. So each method first reads the stack's state, waits for an
operation that is still running, and deletes a stack that cannot be updated any more.

Next: store.py
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from scene.errors import UserError

PAUSE = 2                   # seconds between two polls of a stack
REVIEW = "REVIEW_IN_PROGRESS"       # a change set was created but never executed: the stack is still empty
ONLY_DELETE = (REVIEW, "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE")


class Stack:
    """A stack by its name, whether it exists or not."""

    def __init__(self, client: BaseClient, name: str):
        self.client = client
        self.name = name

    def describe(self) -> dict:
        """CloudFormation's description of the stack, or {} if there is no such stack."""
        try:
            return self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise

    @property
    def status(self) -> str | None:
        """CloudFormation's status of the stack, or None if there is no such stack."""
        return self.describe().get("StackStatus")

    @property
    def exists(self) -> bool:
        """Whether the stack exists, other than as the remains of a failed creation."""
        return self.status not in (None, *ONLY_DELETE)

    @property
    def parameters(self) -> dict[str, str]:
        entries = self.describe().get("Parameters", [])
        return {entry["ParameterKey"]: entry["ParameterValue"] for entry in entries}

    @property
    def outputs(self) -> dict[str, str]:
        entries = self.describe().get("Outputs", [])
        return {entry["OutputKey"]: entry["OutputValue"] for entry in entries}

    def apply(self, template: str, parameters: dict[str, str], dry_run: bool = False) -> None:
        """Creates or updates the stack and prints the changes. A dry run only prints. Raises UserError."""
        print(f"Stack {self.name}", flush=True)
        self.settle()
        if self.status in ONLY_DELETE:
            self.delete()
        kind = "UPDATE" if self.status else "CREATE"
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        change_set = self.client.create_change_set(
            StackName=self.name, ChangeSetName=f"scene-{time.time_ns()}", ChangeSetType=kind,
            TemplateBody=template, Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"])["Id"]
        changes = self.changes(change_set)
        if changes is None:
            print("  nothing to change")
        for change in changes or []:
            action = change["Action"].lower()
            print(f"  {action:<7}{change['LogicalResourceId']} ({change['ResourceType']})", flush=True)
        if changes is not None and not dry_run:
            with self.followed():
                self.client.execute_change_set(ChangeSetName=change_set)
            return
        self.client.delete_change_set(ChangeSetName=change_set)
        if kind == "CREATE":                            # the change set left an empty stack
            self.client.delete_stack(StackName=self.name)

    def changes(self, change_set: str) -> list[dict] | None:
        """Waits for a change set: -> its changes to resources, None if nothing changes. Raises UserError."""
        while True:
            pages = list(self.client.get_paginator("describe_change_set").paginate(ChangeSetName=change_set))
            status = pages[0]["Status"]
            reason = pages[0].get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                return [change["ResourceChange"] for page in pages for change in page["Changes"]]
            if status == "FAILED" and any(words in reason for words in NO_CHANGE):
                return None
            if status == "FAILED":
                self.client.delete_change_set(ChangeSetName=change_set)
                raise UserError(f"CloudFormation cannot change stack {self.name}: {reason}")
            time.sleep(PAUSE)

    def delete(self) -> None:
        """Deletes the stack, if it exists, and waits until it is gone. Raises UserError."""
        print(f"Deleting stack {self.name}", flush=True)
        self.settle()
        if self.status:
            with self.followed():
                self.client.delete_stack(StackName=self.name)

    def settle(self) -> None:
        """Waits for an operation that an interrupted command has started."""
        stack = self.describe().get("StackId")
        shown = self.event_ids(stack) if stack else set()
        # Read after the events: if the stack is still busy now, `shown` lacks the event that ends it.
        status = self.status or ""
        if status.endswith("_IN_PROGRESS") and status != REVIEW:
            print(f"Stack {self.name} is busy ({status}): waiting.", flush=True)
            self.follow(stack, shown)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Wraps a call that starts an operation: prints its events until it ends. Raises UserError."""
        stack = self.describe()["StackId"]
        shown = self.event_ids(stack)
        yield
        status, cause = self.follow(stack, shown)
        if status not in DONE:
            cause = cause or "See its events in the CloudFormation console"
            raise UserError(f"Stack {self.name} ended as {status}. {cause}. "
                            "Fix this and run the same command again.")

    def follow(self, stack: str, shown: set[str]) -> tuple[str, str]:
        """Prints new events until the operation ends: -> (the stack's status, the first failure or "")."""
        cause = ""
        while True:
            for event in self.events(stack):
                if event["EventId"] in shown:
                    continue
                shown.add(event["EventId"])
                failure = print_event(event)
                if "cancelled" not in failure:          # a consequence of another failure
                    cause = cause or failure
                status = event["ResourceStatus"]
                if event["PhysicalResourceId"] == stack and not status.endswith("_IN_PROGRESS"):
                    return status, cause
            time.sleep(PAUSE)

    def events(self, stack: str) -> list[dict]:
        """All events of the stack with this ID, oldest first. A deleted stack still has its events."""
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack)
        return [event for page in pages for event in page["StackEvents"]][::-1]

    def event_ids(self, stack: str) -> set[str]:
        return {event["EventId"] for event in self.events(stack)}


def print_event(event: dict) -> str:
    """Prints an event of a stack. Returns its failure as "resource: reason", or "" if it did not fail."""
    status = event["ResourceStatus"]
    name = event["LogicalResourceId"]
    if not status.endswith("_FAILED"):
        print(f"    {status:<20} {name}", flush=True)
        return ""
    reason = event.get("ResourceStatusReason", "")
    print(f"    {status:<20} {name}: {reason}", flush=True)
    return f"{name}: {reason.rstrip('.')}"
