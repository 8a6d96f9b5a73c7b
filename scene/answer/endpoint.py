"""From a request to its answer: everything that AWS Lambda and scene.serve share. No HTTP here, and no AWS.

    {"mode": "CNN", "imageBase64": "…"}
        -> {"scene": "ocean", "probabilities": {class: p}, "mode": "CNN", "model": "3e9…", "requestId": "…"}
           and, by a model with a calibration, "sure": true, or "sure": false and "reason": "close_call"
    the same with "map": true
         -> the same with "map": {"class": "ocean", "score": …, "bias": …, "places": H rows of W numbers, …}
    a photo itself, and the mode
        -> the same
    a request that cannot be answered
        -> {"error": {"code": "bad_mode", "message": "…"}, "requestId": "…"}

An error has a code that never changes, for programs, and a sentence, for people. It contains no traceback, no
path and nothing of the request. The causes of internal errors go to the log.

Next: openapi.py
"""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scene.answer.class_map import class_maps
from scene.answer.classifier import Classifier
from scene.answer.gradient_map import NeedsTorch
from scene.models import DEFAULT_MODE, MODES
from scene.photos.decode import (
    LOCAL,
    REMOTE,
    Limits,
    PhotoError,
    PhotoTooLarge,
    UnsupportedPhoto,
    decode,
)

MAX_MODEL = 100_000_000     # bytes of a model file, on AWS: a larger one would take too long to fetch
MOST_COMMAS = 10_000        # in a request: JSON of many small values takes forty times its size in memory
FIELDS = "mode, imageBase64 and perhaps map"
TOO_BUSY = "There are too many requests at once: try again in a second."
WHITE_SPACE = b" \t\r\n"

PAGE_ONLY = {               # the codes of the page that scene.serve serves
    "wrong_origin": 403, "not_local": 403, "wrong_content_type": 415, "too_much_work": 503,
    "needs_torch": 503,
}
SERVE_ONLY = PAGE_ONLY | {  # the codes of scene.serve only: on AWS the gateway refuses such requests
    "bad_request": 400, "not_found": 404, "method_not_allowed": 405, "request_timeout": 408,
    "length_required": 411, "address_too_long": 414, "wrong_host": 421, "headers_too_large": 431,
    "too_busy": 503,
}
STATUS = {                  # every code, with its HTTP status
    "not_json": 400, "not_an_object": 400, "missing_field": 400, "unknown_field": 400, "wrong_type": 400,
    "bad_mode": 400, "bad_base64": 400, "empty_photo": 400, "not_a_photo": 400, "damaged_photo": 400,
    "map_needs_torch": 400,         # the map of a network whose scores are not sums over places
    "photo_too_large": 413,         # in bytes or in pixels
    "internal_error": 500,
    "model_missing": 503, "model_unreadable": 503, "storage_unreachable": 503,
} | SERVE_ONLY


class Terms(NamedTuple):
    """What a server accepts."""

    limits: Limits          # of a photo
    max_request: int        # bytes
    mode: str               # answers where the request names none, "" if it must


# Lambda takes at most 6 MB, a few hundred bytes of its own included.
FOR_OTHERS = Terms(REMOTE, 6_000_000, "")
# The largest request takes 110 MB until its photo is decoded. 64 megapixels then take up to 512 MB.
FOR_OURSELVES = Terms(LOCAL._replace(max_bytes=30_000_000), 40_100_000, "")


class Refusal(Exception):
    """The reason why a request gets no answer: a code of STATUS, and a sentence for the caller."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]


class Photo(NamedTuple):
    """A request whose body is the photo itself, with the mode from the query ("" if there is none)."""

    data: bytes
    mode: str


def received(body: bytes, content_type: str, mode: str) -> bytes | Photo:
    """The body of an HTTP request, as `answer` takes it: JSON or, with Content-Type image/…, a Photo."""
    return Photo(body, mode) if content_type.strip().lower().startswith("image/") else body


def answer(body: bytes | Photo | object | Refusal, request_id: str,
           find_model: Callable[[str], Classifier] | None,
           terms: Terms = FOR_OTHERS) -> tuple[int, dict, dict]:
    """Answers one request: -> (HTTP status, answer, log entry), the last two ready for JSON. Raises nothing.

    body: the request's JSON text, as bytes, or the object itself, or a Photo, or the Refusal of a server that
    has already refused it. find_model(mode) returns a Classifier or raises Refusal.
    The log entry has requestId, status, code (None if all is well), mode, model, scene, the milliseconds of
    each part, and `error` (type, message, trace) if the fault is not the caller's.
    """
    started = time.perf_counter()
    entry = {"requestId": request_id, "status": 200, "code": None, "mode": None, "model": None, "scene": None,
             "milliseconds": {}}
    try:
        result = classify(body, find_model, terms, entry)
    except Refusal as refusal:
        result = refuse(refusal, entry)
    except Exception as error:      # whatever it is, the caller gets an answer
        refusal = Refusal("internal_error", "Something went wrong here: try again later.")
        refusal.__cause__ = error
        result = refuse(refusal, entry)
    entry["milliseconds"]["total"] = since(started)
    return entry["status"], result | {"requestId": request_id}, entry


def refuse(refusal: Refusal, entry: dict) -> dict:
    """The answer to a refused request. Notes the refusal in the log entry."""
    entry |= {"status": refusal.status, "code": refusal.code}
    if refusal.status >= 500 and refusal.__cause__:
        entry["error"] = describe(refusal.__cause__)
    return {"error": {"code": refusal.code, "message": str(refusal)}}


def classify(body, find_model, terms: Terms, entry: dict) -> dict:
    """The answer to a valid request. Notes each step in the log entry. Raises Refusal."""
    if isinstance(body, Refusal):
        raise body
    mode, data, wants_map = read(body, terms, entry)
    milliseconds = entry["milliseconds"]

    started = time.perf_counter()
    model = find_model(mode)
    entry["model"] = model.name
    milliseconds["model"] = since(started)

    started = time.perf_counter()
    pixels = decode_photo(data, model.image_size, terms.limits)
    milliseconds["decode"] = since(started)

    started = time.perf_counter()
    answer = model.answer_pixels(pixels)
    entry["scene"] = answer["scene"]
    milliseconds["predict"] = since(started)
    answer |= {"mode": mode, "model": model.name}

    if wants_map:
        started = time.perf_counter()
        answer["map"] = draw_map(model, pixels, entry["scene"])
        milliseconds["map"] = since(started)
    return answer


def draw_map(model: Classifier, pixels: np.ndarray, scene: str) -> dict:
    """The class map of the likeliest class, for JSON. Raises Refusal."""
    try:
        return class_maps(model, pixels, [model.classes.index(scene)])[0].as_json()
    except NeedsTorch as error:
        raise Refusal("map_needs_torch", f"The map of a {model.mode} needs torch, which this endpoint does "
                      "not have: leave map out, or ask for another mode.") from error


def read(body, terms: Terms, entry: dict) -> tuple[str, bytes, bool]:
    """(mode, the photo's bytes, whether a map is wanted) of a request. Raises Refusal."""
    wants_map = False
    if isinstance(body, Photo):
        entry["mode"], data = read_mode(body.mode or terms.mode), body.data
    else:
        request = parse(body, terms) if isinstance(body, bytes) else body
        if terms.mode and isinstance(request, dict):
            request.setdefault("mode", terms.mode)
        entry["mode"], text, wants_map = read_fields(request)
        data = read_base64(text)
    if not data:
        raise Refusal("empty_photo", f"The photo is empty: send a {' or '.join(terms.limits.formats[:2])}.")
    return entry["mode"], data, wants_map


def read_mode(mode: str) -> str:
    """The mode in the query of a Photo. Raises Refusal."""
    if not mode:
        raise Refusal("missing_field", f"The mode is missing: add ?mode={DEFAULT_MODE} to the address.")
    return check_mode(mode)


def check_mode(mode: str) -> str:
    """The mode, in upper or lower case, if there is such a one. Raises Refusal."""
    if not mode.isascii() or mode.upper() not in MODES:
        raise Refusal("bad_mode", f"The field mode must be one of {', '.join(MODES)}.")
    return mode.upper()


def parse(body: bytes, terms: Terms) -> object:
    """JSON text in UTF-8 -> its value. Raises Refusal, also for duplicate names, NaN and Infinity.

    A byte order mark, which some editors and PowerShell write, is ignored.
    """
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("an object has a duplicate name")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    if len(body) > terms.max_request:
        raise request_too_large(terms)
    if body.count(b",") > MOST_COMMAS:
        raise Refusal("unknown_field", f"The body has unknown fields: send {FIELDS} only.")
    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal("not_json", "The body is not JSON in UTF-8: send an object with the fields mode "
                                  "and imageBase64.") from error


def request_too_large(terms: Terms) -> Refusal:
    return Refusal("photo_too_large", f"The request is over {terms.max_request / 1e6:g} MB: shrink the photo "
                   f"below {terms.limits.max_bytes / 1e6:g} MB first.")


def read_fields(request) -> tuple[str, str, bool]:
    """(mode, base64 text, map) of a request, which must have the first two, and no others. Raises Refusal."""
    if not isinstance(request, dict):
        raise Refusal("not_an_object", "The body is JSON but not an object: send an object with the fields "
                                       "mode and imageBase64.")
    for name in ("mode", "imageBase64"):
        if name not in request:
            raise Refusal("missing_field", f"The field {name} is missing: send both mode and imageBase64.")
    if not request.keys() <= {"mode", "imageBase64", "map"}:
        raise Refusal("unknown_field", f"The body has an unknown field: send {FIELDS} only.")
    for name in ("mode", "imageBase64"):
        if not isinstance(request[name], str):
            raise Refusal("wrong_type", f"The field {name} must be a string.")
    wants_map = request.get("map", False)
    if not isinstance(wants_map, bool):
        raise Refusal("wrong_type", "The field map must be true or false.")
    return check_mode(request["mode"]), request["imageBase64"], wants_map


def read_base64(text: str) -> bytes:
    """Base64, perhaps with white space or the start of a data URL -> bytes. Raises Refusal."""
    if text.startswith("data:"):
        text = text.partition(";base64,")[2] or "?"         # "?" is not base64
    try:
        return base64.b64decode(text.encode("ascii").translate(None, WHITE_SPACE), validate=True)
    except ValueError as error:
        raise Refusal("bad_base64", "The field imageBase64 is not base64: encode the photo's bytes, with "
                                    "padding.") from error


def decode_photo(data: bytes, size: int, limits: Limits) -> np.ndarray:
    """photos.decode, with a code for each kind of failure. Raises Refusal."""
    try:
        return decode(data, size, limits)
    except PhotoTooLarge as error:
        raise Refusal("photo_too_large", f"The photo is too large: {error}.") from error
    except UnsupportedPhoto as error:
        raise Refusal("not_a_photo", f"This is {error}.") from error
    except PhotoError as error:
        raise Refusal("damaged_photo", f"The photo is {error}: send the whole, undamaged file.") from error


def describe(error: BaseException) -> dict[str, str]:
    """An exception, for the log."""
    trace = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "trace": trace}


def log(entry: dict) -> None:
    """Prints one line of JSON, in one piece: other threads print too."""
    print(json.dumps(entry) + "\n", end="", flush=True)


def since(started: float) -> float:
    """Milliseconds since a reading of time.perf_counter()."""
    return round(1000 * (time.perf_counter() - started), 2)
