"""The endpoint under hostile requests: each gets an answer that says what is wrong, and nothing else happens.

The handler runs from these sources, in AWS's runtime client in a process of its own.
"""

import functools
from random import Random

import pytest

pytest.importorskip("moto", reason="needs pip install -e '.[cloud]'")
pytest.importorskip("awslambdaric", reason="needs pip install -e '.[cloud]'")
pytest.importorskip("boto3", reason="needs pip install -e '.[cloud]'")

from PIL import Image  # noqa: E402

from scene.photos.decode import LOCAL, REMOTE, PhotoError, decode  # noqa: E402
from scene.photos.png import PACKED  # noqa: E402
from tests import hostile  # noqa: E402
from tests.trap import MEMORY, Endpoint  # noqa: E402

EACH = 12                       # requests of each kind
LARGE = 3                       # requests of the kind whose photos take long to make
DECODERS = {"PIL.JpegImagePlugin", "PIL.PngImagePlugin"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with Endpoint(tmp_path_factory.mktemp("log")) as endpoint:
        yield endpoint


@pytest.mark.parametrize("kind", hostile.KINDS, ids=lambda kind: kind.__name__)
def test_no_request_does_harm(kind, endpoint):
    for i in range(LARGE if kind is hostile.many_pixels else EACH):
        endpoint.ask(kind(Random(i)))
    deeds, plugins = endpoint.deeds()
    assert deeds == []
    assert plugins <= DECODERS | {"PIL.TiffImagePlugin"}        # which reads EXIF, and opens no photo
    assert endpoint.function.peak_memory() < MEMORY


def photo(data):
    return {"mode": "FCNN", "imageBase64": hostile.encoded(data)}


def test_no_other_decoder_is_reachable(tmp_path):
    """A new process refuses every other format that Pillow writes or recognizes, by the first bytes."""
    formats = hostile.other_formats()
    common = {"BMP", "EPS", "GIF", "ICNS", "ICO", "JPEG2000", "PCX", "PDF", "PPM", "TGA", "TIFF", "WEBP"}
    assert common <= formats.keys()
    before_photos = [magic + hostile.OCEAN for magic in hostile.MAGICS]
    with Endpoint(tmp_path) as endpoint:
        for data in [*formats.values(), *hostile.MAGICS, *before_photos]:
            assert endpoint.ask(photo(data))[:2] == (400, "not_a_photo"), data[:20]
        assert endpoint.deeds() == ([], DECODERS)
        assert endpoint.ask(photo(hostile.OCEAN))[0] == 200


def test_what_pillow_warns_of_as_a_bomb_is_refused_unseen(endpoint):
    """Pillow's own limit is seven times ours, and over it Pillow only warns."""
    assert REMOTE.max_pixels < LOCAL.max_pixels < Image.MAX_IMAGE_PIXELS
    side = int(Image.MAX_IMAGE_PIXELS ** 0.5) + 1
    bomb = hostile.png(hostile.header(side, side), hostile.packed(1000))
    assert endpoint.ask(photo(bomb))[:2] == (413, "photo_too_large")
    first, *rest = hostile.split_png(hostile.TEAL)
    text = (b"zTXt", b"x\0\0" + hostile.packed(2_000_000))                  # more than Pillow decompresses
    assert endpoint.ask(photo(hostile.join_png([first, text, *rest])))[:2] == (400, "damaged_photo")


def scans(before):
    """A JPEG with too many scans, the bytes `before` in front of the last 20."""
    start, scan = hostile.scans(4000, 3000)
    return start + before + scan * 20 + b"\xff\xd9"


def png_with(chunks):
    return hostile.TEAL[:hostile.AFTER_HEADER] + chunks + hostile.TEAL[hostile.AFTER_HEADER:]


COMMENTS = hostile.segment(0xfe) * 1_000_000
ZEROS = b"x\0\0" + hostile.packed(1000)
MANY = {
    "segments": lambda: hostile.OCEAN[:2] + COMMENTS + hostile.OCEAN[2:],
    "segments after the header": lambda: hostile.scans(64, 64)[0] + COMMENTS + b"\xff\xd9",
    "stray bytes": lambda: hostile.OCEAN[:2] + b"\xff" * 4_000_000 + hostile.OCEAN[2:],
    "stray bytes to the end": lambda: b"\xff\xd8" + b"\xff" * 4_000_000,
    "stray markers": lambda: hostile.OCEAN[:2] + b"\xff\xd9\xff\xd0" * 1_000_000 + hostile.OCEAN[2:],
    **{f"{kind.decode()} chunks": functools.partial(png_with, hostile.chunk(kind, ZEROS) * 51)
       for kind in PACKED},
    "chunks": lambda: png_with(hostile.chunk(b"abCd") * 300_000),
}


@pytest.mark.parametrize("parts", MANY)
def test_parts_without_number_are_no_photo(parts, endpoint):
    """Each part takes some time: a million segments would take seconds, a million scans hours."""
    data = MANY[parts]()
    assert endpoint.ask(photo(data))[:2] == (400, "damaged_photo")
    with pytest.raises(PhotoError, match="^damaged: the (JPEG|PNG) has too many parts$"):
        decode(data, 64)


@pytest.mark.parametrize("before", [b"", b"\xff\2\xff\xff"], ids=["plain", "behind an odd marker"])
def test_scans_without_number_are_too_many_for_their_size(before, endpoint):
    data = scans(before)
    assert endpoint.ask(photo(data))[:2] == (413, "photo_too_large")
    words = "^29 scans of 4000x3000 pixels; at most 21 are accepted at this size: "
    with pytest.raises(PhotoError, match=words):
        decode(data, 64, REMOTE)


def test_values_without_number_are_not_even_read(endpoint):
    """They would take forty times their size in memory."""
    status, code, _ = endpoint.ask(hostile.post(b'{"mode": [%b0]}' % (b'{"":0},' * 800_000), Random(0)))
    assert (status, code) == (400, "unknown_field")


def test_only_text_is_a_request_id(endpoint):
    for wrong in ("", 5, True, None, [hostile.WORD], {"id": hostile.WORD}):
        endpoint.ask(hostile.post(b"{}", Random(0)) | {"requestContext": {"requestId": wrong}})
