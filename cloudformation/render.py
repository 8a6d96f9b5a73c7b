"""The text of template.yaml as it is sent: with the schemas of the API's models, its deployment renamed.

    python -m cloudformation.render > scene.yaml         to deploy by hand

Next: release.py
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from scene.answer.openapi import SCHEMAS

HERE = Path(__file__).resolve().parent
DRAFT = "http://json-schema.org/draft-04/schema#"           # the draft that API Gateway's models are in
IN_THE_SNAPSHOT = ["CorsOrigin"]                            # parameters on which the deployment depends


def template(parameters: Mapping[str, str]) -> str:
    """The template for a stack with these parameters.

    `Schema: SceneAnswer` gets the schema of that name in scene/answer/openapi.py. A deployment is an
    immutable snapshot of the API, so it gets a new name whenever the template or one of IN_THE_SNAPSHOT
    changes.
    """
    text = (HERE / "template.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?<= Schema: )(\w+)$", lambda found: schema(found[1]), text, flags=re.MULTILINE)
    snapshot = [text, *(parameters.get(name, "") for name in IN_THE_SNAPSHOT)]
    name = hashlib.sha256("\0".join(snapshot).encode()).hexdigest()[:12]
    return text.replace("Deployment0", f"Deployment{name}")


def schema(name: str) -> str:
    """A schema as API Gateway takes it, in JSON, which is YAML too."""
    return json.dumps({"$schema": DRAFT, **SCHEMAS[name]})


if __name__ == "__main__":
    print(template({}), end="")
