"""scene/endpoint.py: the right answer, or the right refusal; and whatever is sent, never more than that."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from scene import endpoint, modelfile, photo
from scene.models import CNN, FCNN
from scene.predict import Classifier

OCEAN = (Path(__file__).parent.parent / "datasets/test/ocean/ocean_000.jpg").read_bytes()
CLASSES = ["sea", "meadow", "road"]


def model_file(network, path, mode=None):
    """Writes a network to a model file that says it is of this mode, and returns the file's bytes."""
    card = {"mode": mode or network.mode, "classes": CLASSES, "architecture": network.architecture, "fit": "stretch", "mirror": True}
    modelfile.save(path, network, card)
    return path.read_bytes()


def small_network(kind, seed=0):
    """A network that never learned anything, but gives each photo other probabilities."""
    return kind(3, 16).start(torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{mode: bytes of a model file}"""
    folder = tmp_path_factory.mktemp("models")
    return {kind.mode: model_file(small_network(kind), folder / kind.mode) for kind in (FCNN, CNN)}


@pytest.fixture(scope="session")
def models(files):
    return {mode: endpoint.load_model(data) for mode, data in files.items()}


@pytest.fixture(scope="session")
def ask(models):
    """ask(body) -> (status, answer, entry), after checks that hold for every answer."""
    def ask(body):
        status, answer, entry = endpoint.answer(body, "id-1", models.__getitem__)
        check(status, json.dumps(answer), "id-1")
        assert (entry["requestId"], entry["status"]) == ("id-1", status)
        assert entry["milliseconds"]["total"] >= 0 and json.dumps(entry).isascii()
        return status, answer, entry
    return ask


def check(status, text, request_id):
    """What holds for every answer: JSON in ASCII with the request's id; for an error a code with its status, and a clean sentence."""
    answer = json.loads(text, parse_constant=pytest.fail)
    assert text.isascii() and answer["requestId"] == request_id
    if status == 200:
        assert set(answer) == {"scene", "probabilities", "mode", "model", "requestId"}
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    else:
        assert set(answer) == {"error", "requestId"} and set(answer["error"]) == {"code", "message"}
        assert endpoint.STATUS[answer["error"]["code"]] == status
        message = answer["error"]["message"]
        assert message[0].isupper() and message[-1] == "." and "\n" not in message and len(message) < 200
        assert not re.search(r"/\w+/|\.py|Traceback|Error", message)


def body(mode="CNN", data=OCEAN, **more):
    return json.dumps({"mode": mode, "imageBase64": base64.b64encode(data).decode(), **more}).encode()


def code(answer):
    return answer["error"]["code"]


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# Answers


@pytest.mark.parametrize("mode", ["FCNN", "CNN"])
def test_the_answer_is_the_classifiers(mode, ask, files, models):
    status, answer, entry = ask(body(mode))
    expected = models[mode].classifier.classify(OCEAN, photo.REMOTE)
    assert (status, answer["probabilities"], answer["mode"]) == (200, expected, mode)
    assert list(answer["probabilities"]) == list(expected) and answer["scene"] == next(iter(expected))
    assert answer["model"] == hashlib.sha256(files[mode]).hexdigest()[:12]
    assert (entry["code"], entry["mode"], entry["model"], entry["scene"]) == (None, mode, answer["model"], answer["scene"])
    assert set(entry["milliseconds"]) == {"model", "decode", "predict", "total"} and "error" not in entry
    assert len(json.dumps(entry)) < 400                     # no room for a photo


def test_numpy_and_torch_agree(files):
    for data in files.values():
        on_numpy, on_torch = (endpoint.load_model(data, arrays) for arrays in ("numpy", "torch"))
        assert isinstance(on_torch.classifier.network.params, torch.Tensor) and on_numpy.name == on_torch.name
        p = on_numpy.classifier.classify(OCEAN)
        assert max(p.values()) - min(p.values()) > 0.1
        assert on_torch.classifier.classify(OCEAN) == pytest.approx(p, abs=1e-5)


@pytest.mark.parametrize("change", [
    lambda text: "data:image/jpeg;base64," + text,
    lambda text: "data:;base64," + text,
    lambda text: "\n".join(text[i:i + 76] for i in range(0, len(text), 76)) + "\r\n",
    lambda text: f" \t{text} ",
])
def test_base64_as_people_have_it(change, ask):
    text = change(base64.b64encode(OCEAN).decode())
    assert ask({"mode": "CNN", "imageBase64": text})[:2] == ask(body())[:2]


# Refusals


def fields(mode="CNN", image="AAAA"):
    return {"mode": mode, "imageBase64": image}


DEEP = 100_000
REFUSED = {
    "no body": (b"", "not_json"),
    "text": (b"mode=CNN", "not_json"),
    "half": (body()[:-1], "not_json"),
    "two": (body() * 2, "not_json"),
    "a name twice": (b'{"mode": "CNN", "mode": "FCNN", "imageBase64": "AAAA"}', "not_json"),
    "NaN": (b'{"mode": NaN, "imageBase64": "AAAA"}', "not_json"),
    "Infinity": (b"-Infinity", "not_json"),
    "not UTF-8": (b'{"mode": "\xff"}', "not_json"),
    "UTF-16": (body().decode().encode("utf-16"), "not_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + body(), "not_json"),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, "not_json"),
    "deep objects": (b'{"mode":' * DEEP + b"1" + b"}" * DEEP, "not_json"),
    "a huge number": (b"1" * 5000, "not_json"),
    "a NUL": (b'{"mode": "\0"}', "not_json"),
    "a list": (b"[]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "a number": (b"1e999", "not_an_object"),
    "nothing": (b"{}", "missing_field"),
    "no photo": (b'{"mode": "CNN"}', "missing_field"),
    "no mode": (b'{"imageBase64": ""}', "missing_field"),
    "another field": (body(bucket="mine"), "unknown_field"),
    "a mode that is a number": (fields(mode=1), "wrong_type"),
    "a photo that is a list": (fields(image=[1]), "wrong_type"),
    "a photo that is null": (fields(image=None), "wrong_type"),
    "a mode in small letters": (fields("cnn"), "bad_mode"),
    "a mode of half a character": (b'{"mode": "\\ud800", "imageBase64": ""}', "bad_mode"),
    "a letter that base64 has not": (fields(image="AA*A"), "bad_base64"),
    "base64 for addresses": (fields(image="_-_-"), "bad_base64"),
    "no padding": (fields(image="AAA"), "bad_base64"),
    "padding in the middle": (fields(image="AA==AAAA"), "bad_base64"),
    "not ASCII": (fields(image="ÄÄÄÄ"), "bad_base64"),
    "half a character": (b'{"mode": "CNN", "imageBase64": "\\udcff"}', "bad_base64"),
    "a data URL without base64": (fields(image="data:image/png,abcd"), "bad_base64"),
    "a data URL alone": (fields(image="data:image/png;base64,"), "bad_base64"),
    "empty": (fields(image=""), "empty_photo"),
    "white space": (fields(image=" \n"), "empty_photo"),
    "zeros": (body(data=bytes(1000)), "not_a_photo"),
    "a web page": (body(data=b"<html>"), "not_a_photo"),
    "a WebP": (body(data=b"RIFF\4\0\0\0WEBP"), "not_a_photo"),
    "truncated": (body(data=OCEAN[:2000]), "damaged_photo"),
    "damaged": (body(data=png(Image.new("RGB", (9, 9))).replace(b"IDAT", b"IDAX")), "damaged_photo"),
    "too many bytes": (body(data=OCEAN + bytes(4_400_000)), "photo_too_large"),
    "too many bytes of no photo": (body(data=bytes(4_400_001)), "photo_too_large"),
    "too large a request": (b" " * 6_000_001, "photo_too_large"),
    "a bomb": (body(data=png(Image.new("1", (4100, 4000)))), "photo_too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, ask):
    sent, expected = REFUSED[name]
    status, answer, entry = ask(sent)
    assert code(answer) == entry["code"] == expected
    assert status == (413 if expected == "photo_too_large" else 400) and "error" not in entry


def test_every_code_that_a_photo_or_request_can_cause_is_tried():
    assert {expected for _, expected in REFUSED.values()} == {
        name for name, status in endpoint.STATUS.items() if status < 500} - {
        "bad_request", "not_found", "method_not_allowed", "request_timeout", "length_required", "address_too_long", "headers_too_large"}


def test_what_the_limits_let_in(ask):
    assert ask(body(data=OCEAN + bytes(4_400_000 - len(OCEAN))))[0] == 200
    assert ask(body(data=png(Image.new("1", (4080, 3072)))))[0] == 200      # the 12 megapixels of a phone


@pytest.mark.parametrize("refused", ["model_missing", "model_unreadable", "storage_unreachable"])
def test_a_cause_is_for_the_log_only(refused):
    def find_model(mode):
        raise endpoint.Refusal(refused, "The model is away.") from OSError("/secret/path is on fire")

    status, answer, entry = endpoint.answer(body(), "id-2", find_model)
    check(status, json.dumps(answer), "id-2")
    assert (status, answer["error"]) == (503, {"code": refused, "message": "The model is away."})
    assert (entry["code"], entry["error"]["type"], entry["error"]["message"]) == (refused, "OSError", "/secret/path is on fire")


@pytest.mark.parametrize("error", [RuntimeError("/secret/path"), MemoryError("/secret/path"), RecursionError("/secret/path")])
def test_what_nobody_foresaw_is_a_500_with_its_trace_in_the_log_only(error, ask, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr(Classifier, "probabilities", broken)
    status, answer, entry = ask(body())
    assert (status, code(answer)) == (500, "internal_error") and "secret" not in json.dumps(answer)
    assert entry["error"]["type"] == type(error).__name__
    assert "test_endpoint.py" in entry["error"]["trace"] and "/secret/path" in entry["error"]["trace"]
    assert base64.b64encode(OCEAN).decode()[:40] not in json.dumps(entry)


def test_probabilities_that_are_no_numbers_never_leave(ask, monkeypatch):
    monkeypatch.setattr(Classifier, "probabilities", lambda *_: np.array([[0.5, np.nan, 0.5]]))
    assert ask(body())[0] == 500


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_model_whose_numbers_run_over_is_no_model(tmp_path):
    network = small_network(FCNN)
    network.params[network.decayed:] *= 3e38          # the scales of its norms
    with pytest.raises(modelfile.ModelFileError, match="its probabilities are not numbers"):
        endpoint.load_model(model_file(network, tmp_path / "model"))


# Whatever is sent


NAMES = st.sampled_from(["mode", "imageBase64"]) | st.text(st.characters(exclude_categories=()))     # half characters too
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_mistake_of_the_caller(ask, sent):
    assert ask(sent)[0] == 400


@given(st.fixed_dictionaries({"mode": st.sampled_from(["CNN", "FCNN"]) | VALUES,
                              "imageBase64": st.binary(max_size=99).map(lambda data: base64.b64encode(data).decode()) | VALUES}))
def test_any_values_are_a_mistake_of_the_caller(ask, sent):
    assert ask(sent)[0] == 400


PNG = png(Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 30, 4), dtype=np.uint8)))


@given(st.sampled_from([OCEAN, PNG]), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
       st.floats(0, 1))
@example(PNG, [(17 / len(PNG), 255)], 1.0)                  # a width of four thousand million
def test_any_photo_is_answered_or_a_mistake_of_the_caller(ask, whole, changes, share):
    data = bytearray(whole[:max(1, int(share * len(whole)))])
    for place, value in changes:
        data[int(place * len(data))] = value
    assert ask(body(data=bytes(data)))[0] in (200, 400, 413)


def test_it_imports_neither_torch_nor_a_cloud_nor_a_server():
    script = "import sys, scene.endpoint; print(*{'torch', 'botocore', 'http.server', 'ssl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
