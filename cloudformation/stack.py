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

from cloudformation import line
from scene.errors import UserError

PAUSE = 2                   # seconds between two polls of a stack
QUIET = 60                  # seconds without events after which a stack at rest has nothing more to say
LIMIT = 3600                # seconds to follow an operation
REVIEW = "REVIEW_IN_PROGRESS"       # a change set was created but never executed: the stack is still empty
ONLY_DELETE = (REVIEW, "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")
STUCK = "UPDATE_ROLLBACK_FAILED"
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE")


class Stack:
    """A stack by its name, whether it exists or not. `kind` is how the description of its template begins."""

    def __init__(self, client: BaseClient, name: str, kind: str):
        self.client = client
        self.name = name
        self.kind = kind

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

    def resources(self, kind: str) -> list[str]:
        """The physical names of the stack's resources of a type, such as AWS::CloudWatch::Alarm."""
        pages = self.client.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return [entry["PhysicalResourceId"] for page in pages for entry in page["StackResourceSummaries"]
                if entry["ResourceType"] == kind and entry.get("PhysicalResourceId")]

    def check_ours(self) -> None:
        """Raises UserError if a stack of this name exists that was made from another template."""
        described = self.describe()
        ours = described.get("Description", "").startswith(self.kind)
        if described and described["StackStatus"] != REVIEW and not ours:
            raise UserError(f"There is a stack {self.name} that is not {self.kind}, so it was left alone: "
                            "choose another name with --stack.")

    def apply(self, template: str, parameters: dict[str, str], dry_run: bool = False) -> None:
        """Creates or updates the stack and prints the changes. A dry run only prints. Raises UserError."""
        print(f"Stack {self.name}", flush=True)
        self.check_ours()
        if not self.prepare(dry_run):
            return
        kind = "UPDATE" if self.status else "CREATE"
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        change_set = self.client.create_change_set(
            StackName=self.name, ChangeSetName=f"scene-{time.time_ns()}", ChangeSetType=kind,
            TemplateBody=template, Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"])["Id"]
        changes = self.changes(change_set)
        if changes is None:
            print("  nothing to change")
        for change in changes or []:
            print(f"  {describe_change(change)}", flush=True)
        if changes is not None and not dry_run:
            with self.followed():
                self.client.execute_change_set(ChangeSetName=change_set)
            return
        self.client.delete_change_set(ChangeSetName=change_set)
        if kind == "CREATE":                            # the change set left an empty stack
            self.client.delete_stack(StackName=self.name)

    def prepare(self, dry_run: bool) -> bool:
        """Brings the stack into a state in which it can be changed. False if only a dry run prevents that."""
        self.settle()
        status = self.status
        if status != STUCK and status not in ONLY_DELETE:
            return True
        if dry_run and status != REVIEW:
            print(f"  {status}: `{line('up')}` would first "
                  + ("continue the rollback" if status == STUCK else "delete the stack and create it anew"))
            return False
        if status == STUCK:
            self.continue_rollback()
        else:
            self.delete()
        return True

    def continue_rollback(self) -> None:
        """Ends an update whose rollback has failed. Raises UserError."""
        print(f"The rollback of stack {self.name} had failed ({STUCK}): continuing it.", flush=True)
        advice = "Repair or recreate that resource and run the same command again. If it cannot be " \
            "repaired, skip it in the CloudFormation console (Continue update rollback, Advanced)"
        with self.followed(("UPDATE_ROLLBACK_COMPLETE",), advice):
            self.client.continue_update_rollback(StackName=self.name)

    def changes(self, change_set: str) -> list[dict] | None:
        """Waits for a change set: -> its changes to resources, None if nothing changes. Raises UserError."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            pages = list(self.client.get_paginator("describe_change_set").paginate(ChangeSetName=change_set))
            status = pages[0]["Status"]
            reason = pages[0].get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                return [change["ResourceChange"] for page in pages for change in page["Changes"]]
            if status == "FAILED" and any(words in reason for words in NO_CHANGE):
                return None
            if status == "FAILED":
                reason = self.failed_events(ChangeSetName=change_set) or reason
                self.client.delete_change_set(ChangeSetName=change_set)
                raise UserError(f"CloudFormation cannot change stack {self.name}: {reason.rstrip('.')}.")
            time.sleep(PAUSE)
        raise UserError(f"CloudFormation did not finish a change set of stack {self.name}: try again later.")

    def failed_events(self, **where: str) -> str:
        """The failures of the newest operation on a stack or change set, as "resource: reason".

        Early validation reports only here what it refuses. "" if there are none, or no access to them.
        """
        pages = self.client.get_paginator("describe_events").paginate(Filters={"FailedEvents": True}, **where)
        try:
            events = [event for page in pages for event in page.get("OperationEvents", [])]
        except ClientError:
            return ""
        newest = [event for event in events if event.get("OperationId") == events[0].get("OperationId")]
        reasons = [(event.get("LogicalResourceId", self.name),
                    event.get("ValidationStatusReason") or event.get("HookStatusReason")
                    or event.get("ResourceStatusReason")) for event in newest]
        return "; ".join(dict.fromkeys(f"{name}: {reason.rstrip('.')}" for name, reason in reasons if reason))

    def delete(self) -> None:
        """Deletes the stack, if it exists, and waits until it is gone. Raises UserError."""
        self.check_ours()
        self.settle()
        if self.status:
            print(f"Deleting stack {self.name}", flush=True)
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
    def followed(self, done: tuple[str, ...] = DONE,
                 advice: str = "Fix this and run the same command again") -> Iterator[None]:
        """Wraps a call that starts an operation: prints its events until it ends. Raises UserError."""
        stack = self.describe()["StackId"]
        shown = self.event_ids(stack)
        yield
        status, cause = self.follow(stack, shown)
        if status not in done:
            cause = cause or self.failed_events(StackName=stack) \
                or "See its events in the CloudFormation console"
            raise UserError(f"Stack {self.name} ended as {status}. {cause}. {advice}.")

    def follow(self, stack: str, shown: set[str]) -> tuple[str, str]:
        """Prints new events until the operation ends: -> (the stack's status, the first failure or "").

        It has ended when the stack is at rest and was seen at work, or has said that it ended, or has been
        silent for QUIET seconds: right after the start of an operation the old status can still show.
        """
        cause = ""
        worked = ended = False
        deadline = time.monotonic() + LIMIT
        silent = time.monotonic() + QUIET
        while time.monotonic() < deadline:
            status = self.client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
            rests = not status.endswith("_IN_PROGRESS")
            for event in [event for event in self.events(stack) if event["EventId"] not in shown]:
                shown.add(event["EventId"])
                failure = print_event(event)
                if "cancelled" not in failure:          # a consequence of another failure
                    cause = cause or failure
                ended = ended or ends(event)
                silent = time.monotonic() + QUIET
            if rests and (worked or ended or time.monotonic() > silent):
                return status, cause
            worked = worked or not rests
            time.sleep(PAUSE)
        raise UserError(f"Stack {self.name} is still {status} after {LIMIT // 60} minutes. CloudFormation "
                        "goes on without this command: run it again to wait, or see the console.")

    def events(self, stack: str) -> list[dict]:
        """All events of the stack with this ID, oldest first. A deleted stack still has its events."""
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack)
        return [event for page in pages for event in page["StackEvents"]][::-1]

    def event_ids(self, stack: str) -> set[str]:
        return {event["EventId"] for event in self.events(stack)}


def describe_change(change: dict) -> str:
    """A line for a change to a resource."""
    words = {"True": ", which replaces it", "Conditional": ", which may replace it"}
    replaces = words.get(change.get("Replacement", ""), "")
    return f"{change['Action'].lower():<7}{change['LogicalResourceId']} ({change['ResourceType']}){replaces}"


def ends(event: dict) -> bool:
    """Whether an event ends an operation of the stack itself. AWS guarantees only its IDs, name and time."""
    status = event.get("ResourceStatus", "")
    itself = event.get("PhysicalResourceId") == event["StackId"]
    return itself and bool(status) and not status.endswith("_IN_PROGRESS")


def print_event(event: dict) -> str:
    """Prints an event of a stack. Returns its failure as "resource: reason", or "" if it tells none."""
    status = event.get("ResourceStatus") or event.get("DetailedStatus") or "EVENT"
    name = event.get("LogicalResourceId") or event["StackName"]
    reason = event.get("ResourceStatusReason") or event.get("HookStatusReason") or ""
    if not status.endswith("_FAILED"):
        print(f"    {status:<20} {name}", flush=True)
        return ""
    print(f"    {status:<20} {name}: {reason}", flush=True)
    return f"{name}: {reason.rstrip('.')}" if reason else ""
