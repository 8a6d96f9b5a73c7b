"""What a stack keeps in its bucket: zips under names that change with their contents, and each model as versions of one key.

Every key begins with the stack's name. So stacks may share a bucket with each other and with anything else, and what belongs to a stack
can be told, and taken away, without asking anybody.

Next: deploy.py
"""

import hashlib

from scene.command import UserError


class Store:
    """The objects of one stack in one bucket."""

    def __init__(self, client, bucket, stack):
        self.client, self.bucket, self.stack = client, bucket, stack

    def zip_key(self, path):
        """The key of a zip: its name, and the start of its SHA-256."""
        return f"{self.stack}/{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{path.suffix}"

    def model_key(self, mode):
        """The key of a model, whatever its version: the template has the same."""
        return f"{self.stack}/model_{mode}"

    def entries(self):
        """Every version and delete marker of everything that is the stack's, newest first for each key; nothing if there is no bucket."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=f"{self.stack}/")
        try:
            return [entry for page in pages for entry in page.get("Versions", []) + page.get("DeleteMarkers", [])]
        except self.client.exceptions.NoSuchBucket:
            return []

    def versions(self, key):
        """The versions of a key, newest first, as S3 lists them."""
        return [entry for entry in self.entries() if entry["Key"] == key and "ETag" in entry]       # a delete marker has no ETag

    def put(self, key, data):
        """A new version of a key, and the one in use."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, ServerSideEncryption="AES256")

    def put_zip(self, path, dry_run):
        """Uploads a zip, unless it is there; returns its key."""
        key = self.zip_key(path)
        if not self.versions(key):
            print(f"  upload {path.name}, {path.stat().st_size / 1e6:.1f} MB", flush=True)
            if not dry_run:
                self.put(key, path.read_bytes())
        return key

    def put_model(self, path, mode, dry_run):
        """Uploads a model, unless the bucket knows it. A model put in service later, by `deploy.py model`, is not undone."""
        data, versions = path.read_bytes(), self.versions(self.model_key(mode))
        known = [version["ETag"] for version in versions]
        if etag(data) not in known:
            print(f"  upload {path.name}, {len(data) / 1e6:.1f} MB", flush=True)
            if not dry_run:
                self.put(self.model_key(mode), data)
        elif etag(data) != known[0]:
            print(f"  {path.name}: a later one is in service and stays. To go back to this file: deploy.py model {path}")

    def roll_back(self, mode):
        """Puts the version before the one in service in service again, as a new version; returns its bytes. Raises UserError."""
        key = self.model_key(mode)
        versions = self.versions(key)
        before = next((version for version in versions if version["ETag"] != versions[0]["ETag"]), None)
        if not before:
            raise UserError(f"There is no {mode} model before the one in service.")
        data = self.client.get_object(Bucket=self.bucket, Key=key, VersionId=before["VersionId"])["Body"].read()
        self.put(key, data)
        return data

    def read_model(self, mode):
        """The bytes of the model in service, or None."""
        if not self.versions(self.model_key(mode)):
            return None
        return self.client.get_object(Bucket=self.bucket, Key=self.model_key(mode))["Body"].read()

    def empty(self):
        """Deletes all of that. Raises UserError."""
        objects = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in self.entries()]
        for i in range(0, len(objects), 1000):              # S3 takes no more at once
            failed = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects[i:i + 1000]}).get("Errors", [])
            if failed:
                raise UserError(f"S3 does not delete {failed[0]['Key']}: {failed[0]['Message']}.")


def etag(data):
    """S3's ETag of an object uploaded in one piece and encrypted by S3's own key: its MD5, in quotes."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
