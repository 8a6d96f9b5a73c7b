"""One CloudFormation stack: brought to a template by a change set, taken down, its events shown as they happen.

A command may have been interrupted anywhere. So each function first looks at the state that the stack is in, waits for what is still
going on, and clears away what CloudFormation can only delete.

Next: store.py
"""

import time
from contextlib import contextmanager

from botocore.exceptions import ClientError

from scene.command import UserError

PAUSE = 2                   # seconds between two looks at a stack
REVIEW = "REVIEW_IN_PROGRESS"       # a change set was made, but never carried out: there is nothing yet
ONLY_DELETE = (REVIEW, "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
DONE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE")


class Stack:
    """A stack by its name, whether it exists or not."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    def describe(self):
        """What CloudFormation says of it, or {} if there is no such stack."""
        try:
            return self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise

    @property
    def status(self):
        """CloudFormation's word for its state; None if there is no such stack."""
        return self.describe().get("StackStatus")

    @property
    def exists(self):
        """Whether there is more of it than the remains of a creation that failed."""
        return self.status not in (None, *ONLY_DELETE)

    @property
    def parameters(self):
        """Its parameters: {name: value}."""
        return {entry["ParameterKey"]: entry["ParameterValue"] for entry in self.describe().get("Parameters", [])}

    @property
    def outputs(self):
        """Its outputs: {name: value}."""
        return {entry["OutputKey"]: entry["OutputValue"] for entry in self.describe().get("Outputs", [])}

    def apply(self, template, parameters, dry_run=False):
        """Creates the stack or brings it up to date, and prints what changes. A dry run only prints.

        template: its text; parameters: {name: value}. Raises UserError.
        """
        print(f"Stack {self.name}", flush=True)
        self.settle()
        if self.status in ONLY_DELETE:
            self.delete()
        kind = "UPDATE" if self.status else "CREATE"
        change_set = self.client.create_change_set(
            StackName=self.name, ChangeSetName=f"scene-{time.time_ns()}", ChangeSetType=kind, TemplateBody=template,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"])["Id"]
        changes = self.changes(change_set)
        if changes is None:
            print("  nothing to change")
        for change in changes or []:
            print(f"  {change['Action'].lower():<7}{change['LogicalResourceId']} ({change['ResourceType']})", flush=True)
        if changes is not None and not dry_run:
            with self.followed():
                self.client.execute_change_set(ChangeSetName=change_set)
            return
        self.client.delete_change_set(ChangeSetName=change_set)
        if kind == "CREATE":                            # the change set left an empty stack
            self.client.delete_stack(StackName=self.name)

    def changes(self, change_set):
        """What a change set would do to resources, once CloudFormation has worked it out; None if nothing at all. Raises UserError."""
        while True:
            pages = list(self.client.get_paginator("describe_change_set").paginate(ChangeSetName=change_set))
            status, reason = pages[0]["Status"], pages[0].get("StatusReason", "")
            if status == "CREATE_COMPLETE":
                return [change["ResourceChange"] for page in pages for change in page["Changes"]]
            if status == "FAILED" and any(words in reason for words in NO_CHANGE):
                return None
            if status == "FAILED":
                self.client.delete_change_set(ChangeSetName=change_set)
                raise UserError(f"CloudFormation refuses to change {self.name}: {reason}")
            time.sleep(PAUSE)

    def delete(self):
        """Deletes the stack, if there is one, and waits until it is gone. Raises UserError."""
        print(f"Stack {self.name} goes", flush=True)
        self.settle()
        if self.status:
            with self.followed():
                self.client.delete_stack(StackName=self.name)

    def settle(self):
        """Waits for what an interrupted command has set going."""
        stack = self.describe().get("StackId")
        shown = {event["EventId"] for event in self.events(stack)} if stack else set()
        status = self.status or ""          # asked after the events: if it is still at work now, the event of its end is not among them
        if status.endswith("_IN_PROGRESS") and status != REVIEW:
            print(f"Stack {self.name} is still at work ({status}): waiting for it.", flush=True)
            self.follow(stack, shown)

    @contextmanager
    def followed(self):
        """Around a call that sets the stack going: shows what happens and waits for the end. Raises UserError if it is a bad one."""
        stack = self.describe()["StackId"]
        shown = {event["EventId"] for event in self.events(stack)}
        yield
        status, cause = self.follow(stack, shown)
        if status not in DONE:
            raise UserError(f"Stack {self.name} ended as {status}. {cause or 'See its events in the CloudFormation console'}. "
                            "Mend this and run the same command again.")

    def follow(self, stack, shown):
        """Prints new events until one tells the end of it all: -> (the stack's last status, the first thing that failed or "")."""
        cause = ""
        while True:
            for event in self.events(stack):
                if event["EventId"] in shown:
                    continue
                shown.add(event["EventId"])
                status, name, reason = event["ResourceStatus"], event["LogicalResourceId"], event.get("ResourceStatusReason", "")
                failed = status.endswith("_FAILED")
                print(f"    {status:<20} {name}{f': {reason}' if failed else ''}", flush=True)
                if failed and not cause and "cancelled" not in reason:
                    cause = f"{name}: {reason.rstrip('.')}"
                if event["PhysicalResourceId"] == stack and not status.endswith("_IN_PROGRESS"):
                    return status, cause
            time.sleep(PAUSE)

    def events(self, stack):
        """All events of the stack with this id, oldest first. A deleted stack's are there, too."""
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack)
        return [event for page in pages for event in page["StackEvents"]][::-1]
