"""From a request to its answer: all that the endpoint in AWS Lambda and `scene.serve` have in common. No HTTP here, and no AWS.

    {"mode": "CNN", "imageBase64": "…"} -> {"scene": "ocean", "probabilities": {class: p}, "mode": "CNN", "model": "3e9…", "requestId": "…"}
    what cannot be answered             -> {"error": {"code": "bad_mode", "message": "…"}, "requestId": "…"}

Whoever calls gets a code that never changes, for programs, and a sentence, for people; never a trace, a path or what was sent. What
went wrong inside is for the log.

Next: serve.py
"""

import base64
import hashlib
import json
import time
import traceback
from typing import NamedTuple

import numpy as np

from scene import modelfile, photo
from scene.models import MODES
from scene.predict import Classifier

MAX_REQUEST = 6_000_000     # bytes: Lambda takes no more than 6 MB, with some hundreds of them for its own words
MOST_COMMAS = 10_000        # in a request: it needs two, and a million small values take forty times their length in memory
WHITE_SPACE = b" \t\r\n"

STATUS = {                  # every code, with its HTTP status
    "not_json": 400, "not_an_object": 400, "missing_field": 400, "unknown_field": 400, "wrong_type": 400, "bad_mode": 400,
    "bad_base64": 400, "empty_photo": 400, "not_a_photo": 400, "damaged_photo": 400,
    "photo_too_large": 413,         # in bytes or in pixels
    "internal_error": 500,
    "model_missing": 503, "model_unreadable": 503, "storage_unreachable": 503,
    # scene.serve only; in AWS the gateway refuses such requests
    "bad_request": 400, "not_found": 404, "method_not_allowed": 405, "request_timeout": 408, "length_required": 411,
    "address_too_long": 414, "headers_too_large": 431, "too_busy": 503,
}


class Refusal(Exception):
    """Why a request gets no scene: a code of STATUS, and a sentence for whoever sent it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.status = code, STATUS[code]


class Model(NamedTuple):
    """A classifier, and the first 12 hex digits of the SHA-256 of its file."""

    classifier: Classifier
    name: str


def load_model(data, arrays="numpy"):
    """The bytes of a model file -> Model, on NumPy arrays or torch tensors. Raises ModelFileError.

    It has to give numbers for a black picture before it is called good.
    """
    network, card = modelfile.load(data)
    if arrays == "torch":
        import torch  # here, not above: prediction on NumPy needs none

        network.place(torch.from_numpy(network.params), torch.from_numpy(network.state))
    classifier = Classifier(network, card)
    predict(classifier, np.zeros((network.image_size, network.image_size, 3), np.uint8))
    return Model(classifier, hashlib.sha256(data).hexdigest()[:12])


def predict(classifier, pixels):
    """Decoded pixels, (S, S, 3) uint8 -> {class: probability}, the likeliest first. Raises ModelFileError if these are no numbers."""
    p = classifier.probabilities(pixels[None])[0]       # (S, S, 3) -> (1, S, S, 3) -> (1, K) -> (K,)
    if not np.isfinite(p).all():
        raise modelfile.ModelFileError("its probabilities are not numbers")
    return dict(sorted(zip(classifier.classes, p.tolist(), strict=True), key=lambda pair: -pair[1]))


def answer(body, request_id, find_model):
    """Answers one request: -> (HTTP status, the answer, the log's entry), the last two ready for JSON. Raises nothing.

    body: the request's JSON text, as bytes, or the object itself; or the Refusal that a server met it with before. find_model(mode)
    returns a Model or raises Refusal.
    The entry has requestId, status, code (None if all is well), mode, model, scene, the milliseconds of each part, and `error`
    (type, message, trace) if it is not the caller's.
    """
    started = time.perf_counter()
    entry = {"requestId": request_id, "status": 200, "code": None, "mode": None, "model": None, "scene": None, "milliseconds": {}}
    try:
        result = classify(body, find_model, entry)
    except Refusal as refusal:
        result = refuse(refusal, entry)
    except Exception as error:      # whatever it is, the caller gets an answer
        refusal = Refusal("internal_error", "Something went wrong here: try again later.")
        refusal.__cause__ = error
        result = refuse(refusal, entry)
    entry["milliseconds"]["total"] = since(started)
    return entry["status"], result | {"requestId": request_id}, entry


def refuse(refusal, entry):
    """The answer to a request that is refused; notes it in the log's entry."""
    entry |= {"status": refusal.status, "code": refusal.code}
    if refusal.status >= 500 and refusal.__cause__:
        entry["error"] = describe(refusal.__cause__)
    return {"error": {"code": refusal.code, "message": str(refusal)}}


def classify(body, find_model, entry):
    """The answer to a request that can be answered; notes in the log's entry what it learns on the way. Raises Refusal."""
    if isinstance(body, Refusal):
        raise body
    mode, data = read(body, entry)
    milliseconds = entry["milliseconds"]

    started = time.perf_counter()
    model = find_model(mode)
    entry["model"] = model.name
    milliseconds["model"] = since(started)

    started = time.perf_counter()
    pixels = decode(data, model.classifier.network.image_size)
    milliseconds["decode"] = since(started)

    started = time.perf_counter()
    probabilities = predict(model.classifier, pixels)
    entry["scene"] = next(iter(probabilities))
    milliseconds["predict"] = since(started)
    return {"scene": entry["scene"], "probabilities": probabilities, "mode": mode, "model": model.name}


def read(body, entry):
    """(mode, the photo's bytes) of a request. Raises Refusal."""
    entry["mode"], text = read_fields(parse(body) if isinstance(body, bytes) else body)
    return entry["mode"], read_base64(text)


def parse(body):
    """JSON text, UTF-8 -> what it holds. Names that stand twice in an object, NaN and Infinity are no JSON."""
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice in an object")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    if len(body) > MAX_REQUEST:
        raise request_too_large()
    if body.count(b",") > MOST_COMMAS:
        raise Refusal("unknown_field", "There is far more in the body than two fields: send mode and imageBase64 only.")
    try:
        return json.loads(body.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal("not_json", "The body is not JSON in UTF-8: send an object with the fields mode and imageBase64.") from error


def request_too_large():
    most = photo.REMOTE.max_bytes / 1e6
    return Refusal("photo_too_large", f"The request is over {MAX_REQUEST / 1e6:g} MB: shrink the photo below {most:g} MB first.")


def read_fields(request):
    """(mode, base64 text) of a request, which must hold these two and nothing else."""
    if not isinstance(request, dict):
        raise Refusal("not_an_object", "The body is JSON but not an object: send an object with the fields mode and imageBase64.")
    for name in ("mode", "imageBase64"):
        if name not in request:
            raise Refusal("missing_field", f"The field {name} is missing: send both mode and imageBase64.")
    if len(request) > 2:
        raise Refusal("unknown_field", "There is a field that nobody knows: send mode and imageBase64 only.")
    for name, value in request.items():
        if not isinstance(value, str):
            raise Refusal("wrong_type", f"The field {name} must be a string.")
    if request["mode"] not in MODES:
        raise Refusal("bad_mode", f"The field mode must be one of {', '.join(MODES)}.")
    return request["mode"], request["imageBase64"]


def read_base64(text):
    """Base64, with or without the beginning of a data URL and white space -> bytes."""
    if text.startswith("data:"):
        text = text.partition(";base64,")[2] or "?"         # "?" is in no base64
    try:
        data = base64.b64decode(text.encode("ascii").translate(None, WHITE_SPACE), validate=True)
    except ValueError as error:
        raise Refusal("bad_base64", "The field imageBase64 is not base64: encode the photo's bytes, with padding.") from error
    if not data:
        raise Refusal("empty_photo", "The photo is empty: put a JPEG or PNG into imageBase64, in base64.")
    return data


def decode(data, size):
    """photo.decode within the limits for strangers; each kind of failure has its code."""
    try:
        photo.check_bytes(len(data), photo.REMOTE)
        photo.find_format(data, photo.REMOTE.formats)
    except photo.PhotoTooLarge as error:
        raise Refusal("photo_too_large", f"The photo is too large: {error}.") from error
    except photo.PhotoError as error:
        raise Refusal("not_a_photo", f"This is {error}.") from error
    try:
        return photo.decode(data, size, photo.REMOTE)
    except photo.PhotoTooLarge as error:
        raise Refusal("photo_too_large", f"The photo is too large: {error}.") from error
    except photo.PhotoError as error:
        raise Refusal("damaged_photo", f"The photo is {error}; send the whole, undamaged file.") from error


def describe(error):
    """An exception, for the log."""
    return {"type": type(error).__name__, "message": str(error), "trace": "".join(traceback.format_exception(error))}


def log(entry):
    """Prints one line of JSON, in one piece: other threads print too."""
    print(json.dumps(entry) + "\n", end="", flush=True)


def since(started):
    """Milliseconds since a reading of time.perf_counter()."""
    return round(1000 * (time.perf_counter() - started), 2)
