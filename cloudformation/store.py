"""A stack's objects in its bucket: zips, named after their content, and models, each a key with versions.

Every key starts with the stack's name. So a stack can share its bucket with other stacks and with anything
else, and its objects can be listed and deleted by that prefix.

Next: profile.py
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.client import BaseClient

from cloudformation import line
from scene.answer.endpoint import MAX_MODEL
from scene.errors import UserError, printable


class Store:
    """The objects of one stack in one bucket."""

    def __init__(self, client: BaseClient, bucket: str, stack: str):
        self.client = client
        self.bucket = bucket
        self.stack = stack

    def zip_key(self, path: Path) -> str:
        """The key of a zip: its name and the start of its SHA-256."""
        return f"{self.stack}/{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{path.suffix}"

    def model_key(self, mode: str) -> str:
        """The key of a model, the same for all its versions. The template repeats it."""
        return f"{self.stack}/model_{mode}"

    @property
    def candidate_key(self) -> str:
        """The key of a model that the function only tries. The template repeats it."""
        return f"{self.stack}/candidate"

    @contextmanager
    def candidate(self, data: bytes) -> Iterator[None]:
        """Keeps a model under `candidate_key` inside, and no version of it afterwards."""
        self.put(self.candidate_key, data)
        try:
            yield
        finally:
            self.delete([entry for entry in self.entries() if entry["Key"] == self.candidate_key])

    def entries(self) -> list[dict]:
        """All versions and delete markers of the objects, newest first per key. [] if there is no bucket."""
        paginator = self.client.get_paginator("list_object_versions")
        entries = []
        try:
            for page in paginator.paginate(Bucket=self.bucket, Prefix=f"{self.stack}/"):
                entries += page.get("Versions", []) + page.get("DeleteMarkers", [])
            return entries
        except self.client.exceptions.NoSuchBucket:
            return []

    def versions(self, key: str) -> list[dict]:
        """The versions of a key, newest first, as S3 lists them: those that were deleted later, too."""
        # A delete marker has no ETag.
        return [entry for entry in self.entries() if entry["Key"] == key and "ETag" in entry]

    def current(self, key: str) -> dict | None:
        """The version that a reader of the key gets. None if there is none, or if the key was deleted."""
        return next((entry for entry in self.versions(key) if entry["IsLatest"]), None)

    def put(self, key: str, data: bytes) -> None:
        """Uploads a new version of a key, which becomes the current one."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ServerSideEncryption="AES256")

    def put_zip(self, path: Path, dry_run: bool) -> str:
        """Uploads a zip unless the bucket has it, and returns its key."""
        key = self.zip_key(path)
        if not self.current(key):
            print(f"  upload {path.name}, {path.stat().st_size / 1e6:.1f} MB", flush=True)
            if not dry_run:
                self.put(key, path.read_bytes())
        return key

    def put_model(self, path: Path, mode: str, dry_run: bool) -> None:
        """Uploads a model unless the bucket has it. A newer one, put in service by `model`, stays."""
        data = read_model(path)
        current = self.current(self.model_key(mode))
        known = [version["ETag"] for version in self.versions(self.model_key(mode))]
        if not current or etag(data) not in known:
            print(f"  upload {path.name}, {len(data) / 1e6:.1f} MB", flush=True)
            if not dry_run:
                self.put(self.model_key(mode), data)
        elif etag(data) != current["ETag"]:
            print(f"  {path.name}: a newer model is in service and stays. To return to this one: "
                  f"{line(f'model {path}')}")

    def read_before(self, mode: str) -> bytes:
        """The bytes of the model before the current one. Raises UserError if there is none.

        If the current one was deleted, that is the newest.
        """
        key = self.model_key(mode)
        now = (self.current(key) or {}).get("ETag")
        before = next((version for version in self.versions(key) if version["ETag"] != now), None)
        if not before:
            raise UserError(f"There is no {mode} model before the current one: nothing to roll back to.")
        old = self.client.get_object(Bucket=self.bucket, Key=key, VersionId=before["VersionId"])
        return old["Body"].read()

    def read_model(self, mode: str) -> bytes | None:
        """The bytes of the current model, if there is one."""
        if not self.current(self.model_key(mode)):
            return None
        return self.client.get_object(Bucket=self.bucket, Key=self.model_key(mode))["Body"].read()

    def empty(self) -> None:
        """Deletes all versions of all the stack's objects. Raises UserError."""
        self.delete(self.entries())

    def delete(self, entries: list[dict]) -> None:
        """Deletes versions and delete markers. Raises UserError."""
        objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        for i in range(0, len(objects), 1000):              # S3 deletes at most 1000 per request
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects[i:i + 1000]})
            if failed := answer.get("Errors"):
                raise UserError(f"S3 could not delete {failed[0]['Key']}: {failed[0]['Message']}.")


def read_model(path: str | Path) -> bytes:
    """The bytes of a model file. Raises UserError if it is larger than the function accepts, or OSError."""
    size = Path(path).stat().st_size
    if size > MAX_MODEL:
        raise UserError(f"{printable(path)} has {size / 1e6:.1f} MB, and the function accepts models of up "
                        f"to {MAX_MODEL / 1e6:g} MB: train one with fewer weights.")
    return Path(path).read_bytes()


def etag(data: bytes) -> str:
    """S3's ETag of an object uploaded in one part and encrypted with S3's own key: its MD5, in quotes."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
