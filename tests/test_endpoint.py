"""answer/endpoint.py: the right answer or the right refusal, whatever is sent."""

import base64
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from scene.answer import endpoint, openapi
from scene.answer.classifier import Classifier
from scene.answer.modelfile import ModelFileError
from scene.models import MODES
from scene.photos.decode import REMOTE
from tests.asking import GOOD, OCEAN, body, calibrated, check, model_file, model_files, overflowing_network


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """{mode: bytes of a model file}"""
    return model_files(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def models(files):
    return {mode: Classifier.load(data) for mode, data in files.items()}


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


def code(answer):
    return answer["error"]["code"]


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# Answers


@pytest.mark.parametrize("mode", MODES)
def test_the_answer_is_the_classifiers(mode, ask, files, models):
    status, answer, entry = ask(body(mode))
    expected = models[mode].classify(OCEAN, REMOTE)
    assert (status, answer["probabilities"], answer["mode"]) == (200, expected, mode)
    assert list(answer["probabilities"]) == list(expected) and answer["scene"] == next(iter(expected))
    assert answer["model"] == hashlib.sha256(files[mode]).hexdigest()[:12]
    assert (entry["code"], entry["mode"]) == (None, mode)
    assert (entry["model"], entry["scene"]) == (answer["model"], answer["scene"])
    assert set(entry["milliseconds"]) == {"model", "decode", "predict", "total"} and "error" not in entry
    assert len(json.dumps(entry)) < 400                     # no room for a photo


@pytest.mark.parametrize("sure, strange, expected", [
    (0, 1e9, {"sure": True}), (2, 1e9, {"sure": False, "reason": "close_call"}),
    (0, 0, {"sure": False, "reason": "unlike_training"})])
def test_a_calibrated_model_says_whether_it_is_sure(sure, strange, expected):
    """In two fields more, which the interface's description has, too."""
    model = Classifier.load(calibrated("CNN", sure=np.float32(sure), strange=np.float32(strange)))
    status, answer, _ = endpoint.answer(GOOD, "id-1", lambda mode: model)
    check(status, json.dumps(answer), "id-1")
    assert {name: answer[name] for name in ("sure", "reason") if name in answer} == expected
    schema = openapi.SCHEMAS["SceneAnswer"]
    assert answer.keys() <= schema["properties"].keys() and schema["required"] == [
        "scene", "probabilities", "mode", "model", "requestId"]
    assert answer.get("reason", "close_call") in schema["properties"]["reason"]["enum"]


def test_numpy_and_torch_agree(files):
    for data in files.values():
        on_numpy, on_torch = (Classifier.load(data, arrays) for arrays in ("numpy", "torch"))
        assert isinstance(on_torch.network.params, torch.Tensor) and on_numpy.name == on_torch.name
        p = on_numpy.classify(OCEAN)
        assert max(p.values()) - min(p.values()) > 0.1
        assert on_torch.classify(OCEAN) == pytest.approx(p, abs=1e-5)


@pytest.mark.parametrize("change", [
    lambda text: "data:image/jpeg;base64," + text,
    lambda text: "data:;base64," + text,
    lambda text: "\n".join(text[i:i + 76] for i in range(0, len(text), 76)) + "\r\n",
    lambda text: f" \t{text} ",
])
def test_base64_as_people_have_it(change, ask):
    text = change(base64.b64encode(OCEAN).decode())
    assert ask({"mode": "CNN", "imageBase64": text})[:2] == ask(body())[:2]


def test_json_with_a_byte_order_mark(ask):
    assert ask(b"\xef\xbb\xbf" + body())[:2] == ask(body())[:2]


@pytest.mark.parametrize("mode", [*MODES, *map(str.lower, MODES), *map(str.title, MODES)])
def test_modes_in_any_case(mode, ask):
    _, answer, entry = ask(body(mode))
    assert answer["mode"] == entry["mode"] == mode.upper()
    assert ask(endpoint.Photo(OCEAN, mode))[1]["probabilities"] == answer["probabilities"]


# Refusals


def fields(mode="CNN", image="AAAA"):
    return {"mode": mode, "imageBase64": image}


DEEP = 100_000
REFUSED = {
    "no body": (b"", "not_json"),
    "text": (b"mode=CNN", "not_json"),
    "half": (body()[:-1], "not_json"),
    "two": (body() * 2, "not_json"),
    "a duplicate name": (b'{"mode": "CNN", "mode": "FCNN", "imageBase64": "AAAA"}', "not_json"),
    "NaN": (b'{"mode": NaN, "imageBase64": "AAAA"}', "not_json"),
    "Infinity": (b"-Infinity", "not_json"),
    "not UTF-8": (b'{"mode": "\xff"}', "not_json"),
    "UTF-16": (body().decode().encode("utf-16"), "not_json"),
    "two byte order marks": (2 * b"\xef\xbb\xbf" + body(), "not_json"),
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
    "a mode with a space": (fields("CNN "), "bad_mode"),
    "a mode in letters that are only upper case like it": (fields("ｃｎｎ"), "bad_mode"),
    "a mode that is a surrogate": (b'{"mode": "\\ud800", "imageBase64": ""}', "bad_mode"),
    "a character that base64 lacks": (fields(image="AA*A"), "bad_base64"),
    "base64 for URLs": (fields(image="_-_-"), "bad_base64"),
    "no padding": (fields(image="AAA"), "bad_base64"),
    "padding in the middle": (fields(image="AA==AAAA"), "bad_base64"),
    "not ASCII": (fields(image="ÄÄÄÄ"), "bad_base64"),
    "a surrogate": (b'{"mode": "CNN", "imageBase64": "\\udcff"}', "bad_base64"),
    "a data URL without base64": (fields(image="data:image/png,abcd"), "bad_base64"),
    "a data URL alone": (fields(image="data:image/png;base64,"), "bad_base64"),
    "empty": (fields(image=""), "empty_photo"),
    "white space": (fields(image=" \n"), "empty_photo"),
    "zeros": (body(data=bytes(1000)), "not_a_photo"),
    "a web page": (body(data=b"<html>"), "not_a_photo"),
    "a WebP": (body(data=b"RIFF\4\0\0\0WEBP"), "not_a_photo"),
    "a JPEG of 12 bits": (
        body(data=OCEAN.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c")), "not_a_photo"),
    "truncated": (body(data=OCEAN[:2000]), "damaged_photo"),
    "a hole": (body(data=OCEAN[:-1500] + bytes(1000) + OCEAN[-500:]), "damaged_photo"),
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
    of_callers = {name for name, status in endpoint.STATUS.items() if status < 500}
    without_torch = {"map_needs_torch"}             # in test_class_map.py
    tried = {expected for _, expected in REFUSED.values()}
    assert tried == of_callers - endpoint.SERVE_ONLY.keys() - without_torch


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
    assert entry["code"] == refused
    assert (entry["error"]["type"], entry["error"]["message"]) == ("OSError", "/secret/path is on fire")


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, RecursionError])
def test_what_nobody_foresaw_is_a_500_with_its_trace_in_the_log_only(kind, ask, monkeypatch):
    def broken(*_):
        raise kind("/secret/path")

    monkeypatch.setattr(Classifier, "judge", broken)
    status, answer, entry = ask(body())
    assert (status, code(answer)) == (500, "internal_error") and "secret" not in json.dumps(answer)
    assert entry["error"]["type"] == kind.__name__
    assert "test_endpoint.py" in entry["error"]["trace"] and "/secret/path" in entry["error"]["trace"]
    assert base64.b64encode(OCEAN).decode()[:40] not in json.dumps(entry)


def test_probabilities_that_are_nan_never_leave(ask, monkeypatch):
    """Of a model, say, that answers a black picture, so it was opened, but not this photo."""
    monkeypatch.setattr(Classifier, "scores", lambda *_: np.array([[0.5, np.nan, 0.5]]))
    status, answer, entry = ask(body())
    assert (status, code(answer)) == (500, "internal_error")
    assert entry["error"]["type"] == "ModelFileError"
    assert entry["error"]["message"] == "its probabilities are NaN"


# A model with finite but enormous weights


@pytest.fixture(scope="module", params=MODES)
def overflowing(request, tmp_path_factory):
    """(mode, path) of a model file."""
    path = tmp_path_factory.mktemp("overflowing") / "model"
    model_file(overflowing_network(request.param), request.param, path)
    return request.param, path


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
def test_a_model_whose_numbers_run_over_is_no_model(arrays, overflowing):
    with pytest.raises(ModelFileError, match="^its probabilities are NaN$"):
        Classifier.load(overflowing[1].read_bytes(), arrays)


def test_a_file_whose_numbers_run_over_is_named(overflowing):
    path = overflowing[1]
    with pytest.raises(ModelFileError) as caught:
        Classifier.open(path)
    assert str(caught.value) == f"{path} is not a usable model: its probabilities are NaN."


@pytest.mark.parametrize("command", ["predict", "serve", "main"])
def test_no_command_uses_a_model_whose_numbers_run_over(command, overflowing, tmp_path):
    mode, path = overflowing
    (tmp_path / "photo.jpg").write_bytes(OCEAN)
    arguments = {
        "predict": ["photo.jpg", "--model", path],
        "serve": ["--model", path, "--port", "0"],
        "main": ["train", "test", mode, "--load-model", path],
    }[command]
    command_line = [sys.executable, "-m", f"scene.{command}", *arguments]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"{path} is not a usable model: its probabilities are NaN.\n"
    assert done.stdout == ""


# Whatever is sent


TEXT = st.text(st.characters(exclude_categories=()))        # surrogates, too
NAMES = st.sampled_from(["mode", "imageBase64"]) | TEXT
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_mistake_of_the_caller(ask, sent):
    assert ask(sent)[0] == 400


BASE64 = st.binary(max_size=99).map(lambda data: base64.b64encode(data).decode())


@given(st.fixed_dictionaries({"mode": st.sampled_from(list(MODES)) | VALUES, "imageBase64": BASE64 | VALUES}))
def test_any_values_are_a_mistake_of_the_caller(ask, sent):
    assert ask(sent)[0] == 400


PNG = png(Image.fromarray(np.random.default_rng(0).integers(256, size=(20, 30, 4), dtype=np.uint8)))


CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


@given(st.sampled_from([OCEAN, PNG]), CHANGES, st.floats(0, 1))
@example(PNG, [(17 / len(PNG), 255)], 1.0)                  # a width of 4 billion pixels
def test_any_photo_is_answered_or_a_mistake_of_the_caller(ask, whole, changes, share):
    data = bytearray(whole[:max(1, int(share * len(whole)))])
    for place, value in changes:
        data[int(place * len(data))] = value
    assert ask(body(data=bytes(data)))[0] in (200, 400, 413)


def test_it_imports_neither_torch_nor_a_cloud_nor_a_server():
    banned = {"torch", "botocore", "http.server", "ssl"}
    script = f"import sys, scene.answer.endpoint; print(*{banned} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
