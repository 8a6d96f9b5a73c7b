"""The watched Lambda function in AWS's runtime client, and the checks that hold for every answer."""

import json
import logging
import re
import sys
import sysconfig
import time
from pathlib import Path

from scene.answer.classifier import PRETRAINED
from tests import hostile
from tests.asking import check
from tests.runtime import OF_THE_STACK, ROOT, Function, serve_s3

MEMORY = 200_000_000            # bytes

# The words in our own messages. Messages of Pillow and Python have others.
SOURCES = [ROOT / "scene" / name for name in ("answer/endpoint.py", "photos/decode.py", "models.py")]
WORDS = {word for path in SOURCES for word in re.findall("[A-Za-z]+", path.read_text(encoding="utf-8"))}


class Endpoint:
    """The watched handler with the pretrained models in an S3 server. `folder` holds its log."""

    def __init__(self, folder):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)       # no line for each request
        models = {f"model_{mode}": Path(path).read_bytes() for mode, path in PRETRAINED.items()}
        self.server, url = serve_s3(models)
        environment = OF_THE_STACK | {
            "SCENE_BUCKET": "models", "AWS_ENDPOINT_URL_S3": url, "PYTHONDONTWRITEBYTECODE": "1"}
        path = [ROOT / "tests", ROOT, sysconfig.get_path("purelib")]
        self.log = folder / "log"
        code = ROOT / "lambda"
        self.function = Function(sys.executable, code, path, environment, self.log, "watched.handler")
        self.log.touch()
        self.lines = self.log.open()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.function.stop()
        self.lines.close()
        self.server.stop()

    def ask(self, event):
        """(status, code, seconds) of a request, after checks that hold for every answer."""
        started = time.perf_counter()
        payload, failed = self.function.invoke(event)
        seconds = time.perf_counter() - started
        assert not failed, payload
        entry = json.loads(self.lines.readline())
        request_id = entry.pop("requestId")
        given = None
        status = entry["status"]
        text = json.dumps(payload)
        if isinstance(event, dict) and isinstance(event.get("requestContext"), dict):
            given = event["requestContext"].get("requestId")
            status = payload["statusCode"]
            text = payload["body"]
        if isinstance(given, str) and given:
            assert request_id == given
        else:
            assert re.fullmatch("[0-9a-f-]{36}", request_id)
        check(status, text, request_id)
        assert status == entry["status"] < 500 and "error" not in entry, entry
        check_words(json.loads(text) | {"requestId": ""}, entry)
        return status, entry["code"], seconds

    def deeds(self):
        """(the forbidden actions of the process, the plugins of Pillow that it has imported)."""
        answer, failed = self.function.invoke("deeds")
        assert not failed and self.lines.readline() == ""       # each request has logged exactly one line
        return answer["deeds"], set(answer["plugins"])


def check_words(answer, entry):
    """Checks that answer and log entry repeat nothing of the request, and that messages use our words."""
    assert hostile.WORD not in json.dumps([answer, entry])
    message = answer["error"]["message"] if "error" in answer else ""
    assert set(re.findall("[A-Za-z]+", re.sub("[0-9]+x[0-9]+", "", message))) <= WORDS, message
