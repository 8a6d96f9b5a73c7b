"""The endpoint against strangers: whatever is sent, an answer that says what is wrong with it, and nothing else happens.

The handler runs in AWS's runtime client, in a process of its own, from these sources.
"""

import functools
import json
import logging
import re
import sys
import sysconfig
import time
from random import Random

import pytest

pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
pytest.importorskip("awslambdaric", reason="needs pip install -e '.[cloud]'")
boto3 = pytest.importorskip("boto3", reason="needs pip install -e '.[cloud]'")

from moto.server import ThreadedMotoServer  # noqa: E402
from PIL import Image  # noqa: E402

from scene.photo import LOCAL, PACKED, REMOTE, PhotoError, decode  # noqa: E402
from scene.predict import PRETRAINED  # noqa: E402
from tests import hostile  # noqa: E402
from tests.runtime import ROOT, Function  # noqa: E402
from tests.test_endpoint import check  # noqa: E402

EACH, LARGE = 12, 3             # requests of each kind; of those whose photos take long to make
MEMORY = 200_000_000            # bytes
DECODERS = {"PIL.JpegImagePlugin", "PIL.PngImagePlugin"}


# Of which our sentences are made. Pillow's and Python's have others.
SOURCES = [ROOT / "scene" / name for name in ("endpoint.py", "photo.py", "models.py")]
WORDS = {word for path in SOURCES for word in re.findall("[A-Za-z]+", path.read_text(encoding="utf-8"))}


class Endpoint:
    """The watched handler with the pre-trained models, which it fetches from an S3 server. `folder` is for its log."""

    def __init__(self, folder):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)       # a line for each request
        self.server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        url = "http://{}:{}".format(*self.server.get_host_and_port())
        s3 = boto3.client("s3", "us-east-1", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret")
        s3.create_bucket(Bucket="models")
        for mode, path in PRETRAINED.items():
            s3.upload_file(path, "models", f"model_{mode}")
        environment = {"SCENE_BUCKET": "models", "AWS_ENDPOINT_URL_S3": url, "PYTHONDONTWRITEBYTECODE": "1",
                       "OPENBLAS_NUM_THREADS": "1",                 # these three as in cloudformation/template.yaml
                       "MALLOC_MMAP_THRESHOLD_": "4194304", "MALLOC_TRIM_THRESHOLD_": "4194304"}
        path = [ROOT / "tests", ROOT, sysconfig.get_path("purelib")]
        self.log = folder / "log"
        self.function = Function(sys.executable, ROOT / "lambda", path, environment, self.log, "watched.handler")
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
        if isinstance(event, dict) and isinstance(event.get("requestContext"), dict):
            status, text, given = payload["statusCode"], payload["body"], event["requestContext"].get("requestId")
        else:
            status, text, given = entry["status"], json.dumps(payload), None
        assert request_id == given if isinstance(given, str) and given else re.fullmatch("[0-9a-f-]{36}", request_id)
        check(status, text, request_id)
        assert status == entry["status"] < 500 and "error" not in entry, entry
        answer = json.loads(text) | {"requestId": ""}
        assert hostile.WORD not in json.dumps([answer, entry])
        message = answer["error"]["message"] if status != 200 else ""
        assert set(re.findall("[A-Za-z]+", re.sub("[0-9]+x[0-9]+", "", message))) <= WORDS, message
        return status, entry["code"], seconds

    def deeds(self):
        """(what the process did that it must not, Pillow's plugins that it has imported)."""
        answer, failed = self.function.invoke("deeds")
        assert not failed and self.lines.readline() == ""       # the log is one line for each request, whatever was sent
        return answer["deeds"], set(answer["plugins"])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with Endpoint(tmp_path_factory.mktemp("log")) as endpoint:
        yield endpoint


@pytest.mark.parametrize("kind", hostile.KINDS, ids=lambda kind: kind.__name__)
def test_no_request_does_harm(kind, endpoint):
    for i in range(LARGE if kind is hostile.many_pixels else EACH):
        endpoint.ask(kind(Random(i)))
    deeds, plugins = endpoint.deeds()
    assert deeds == [] and plugins <= DECODERS | {"PIL.TiffImagePlugin"}       # whose tables EXIF is read with; it opens nothing
    assert endpoint.function.peak_memory() < MEMORY


def photo(data):
    return {"mode": "FCNN", "imageBase64": hostile.encoded(data)}


def test_no_other_decoder_is_reachable(tmp_path):
    """Every format that Pillow writes, and every beginning that it looks for: refused by their first bytes, in a new process."""
    formats = hostile.other_formats()
    assert {"BMP", "EPS", "GIF", "ICNS", "ICO", "JPEG2000", "PCX", "PDF", "PPM", "TGA", "TIFF", "WEBP"} <= formats.keys()
    with Endpoint(tmp_path) as endpoint:
        for data in [*formats.values(), *hostile.MAGICS, *(magic + hostile.OCEAN for magic in hostile.MAGICS)]:
            assert endpoint.ask(photo(data))[:2] == (400, "not_a_photo"), data[:20]
        assert endpoint.deeds() == ([], DECODERS)
        assert endpoint.ask(photo(hostile.OCEAN))[0] == 200


def test_what_pillow_warns_of_as_a_bomb_is_refused_unseen(endpoint):
    """Pillow's own limit only warns, and is seven times ours."""
    assert REMOTE.max_pixels < LOCAL.max_pixels < Image.MAX_IMAGE_PIXELS
    side = int(Image.MAX_IMAGE_PIXELS ** 0.5) + 1
    bomb = hostile.join_png([(b"IHDR", hostile.header(side, side)), (b"IDAT", hostile.packed(1000)), (b"IEND", b"")])
    assert endpoint.ask(photo(bomb))[:2] == (413, "photo_too_large")
    first, *rest = hostile.split_png(hostile.TEAL)
    text = (b"zTXt", b"x\0\0" + hostile.packed(2_000_000))                  # more than Pillow unpacks
    assert endpoint.ask(photo(hostile.join_png([first, text, *rest])))[:2] == (400, "damaged_photo")


def scans(before):
    start, scan = hostile.scans(1000, 1000)
    return start + before + scan * 20 + b"\xff\xd9"


def png_with(chunks):
    return hostile.TEAL[:hostile.AFTER_HEADER] + chunks + hostile.TEAL[hostile.AFTER_HEADER:]


MANY = {
    "segments": lambda: hostile.OCEAN[:2] + hostile.segment(0xfe) * 1_000_000 + hostile.OCEAN[2:],
    "segments after the header": lambda: hostile.scans(64, 64)[0] + hostile.segment(0xfe) * 1_000_000 + b"\xff\xd9",
    "stray bytes": lambda: hostile.OCEAN[:2] + b"\xff" * 4_000_000 + hostile.OCEAN[2:],
    "stray bytes to the end": lambda: b"\xff\xd8" + b"\xff" * 4_000_000,
    "stray markers": lambda: hostile.OCEAN[:2] + b"\xff\xd9\xff\xd0" * 1_000_000 + hostile.OCEAN[2:],
    "scans": lambda: scans(b""),
    "scans behind a marker that libjpeg may pass over": lambda: scans(b"\xff\2\xff\xff"),
    **{f"{kind.decode()} chunks": functools.partial(png_with, hostile.chunk(kind, b"x\0\0" + hostile.packed(1000)) * 51)
       for kind in PACKED},
    "chunks": lambda: png_with(hostile.chunk(b"abCd") * 300_000),
}


@pytest.mark.parametrize("parts", MANY)
def test_parts_without_number_are_no_photo(parts, endpoint):
    """Each costs some time: all of them would cost seconds, scans even hours."""
    data = MANY[parts]()
    assert endpoint.ask(photo(data))[:2] == (400, "damaged_photo")
    with pytest.raises(PhotoError, match="^damaged: the (JPEG|PNG) is in too many parts$"):
        decode(data, 64)


def test_values_without_number_are_not_even_read(endpoint):
    """They would take forty times their length in memory."""
    status, code, _ = endpoint.ask(hostile.post(b'{"mode": [%b0]}' % (b'{"":0},' * 800_000), Random(0)))
    assert (status, code) == (400, "unknown_field")


def test_only_text_is_a_request_id(endpoint):
    for wrong in ("", 5, True, None, [hostile.WORD], {"id": hostile.WORD}):
        endpoint.ask(hostile.post(b"{}", Random(0)) | {"requestContext": {"requestId": wrong}})
