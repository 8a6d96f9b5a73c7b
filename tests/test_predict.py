"""scene/answer/classifier.py and the command that asks it, scene/predict.py."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scene.answer import modelfile
from scene.answer.calibration import NEVER
from scene.answer.classifier import BATCH_PIXELS, Classifier
from scene.models import MODES
from scene.nn.loss import softmax
from scene.photos.decode import decode
from scene.photos.journal import unquote
from scene.predict import parse, run
from tests.asking import CLASSES, calibrated, model_file, small_network
from tests.sorting import snapshot

every_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model_FCNN"
    model_file(small_network("FCNN"), "FCNN", path)
    return path


def picture(seed=0, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixels(n):
    return np.random.default_rng(1).integers(256, size=(n, 16, 16, 3), dtype=np.uint8)


@every_mode
def test_probabilities_are_those_of_photo_and_mirror_image(mode):
    network = small_network(mode)
    network.place(network.params.double(), network.state.double())
    card = modelfile.make_card(network, mode, CLASSES)
    x = pixels(BATCH_PIXELS // 16 ** 2 + 50)                # more than one batch
    t = torch.from_numpy(x)
    z = (network.forward(t) + network.forward(t.flip(2))) / 2
    p = Classifier(network, card).probabilities(x)
    assert p.shape == (len(x), 3)
    np.testing.assert_allclose(p, softmax(z).numpy(), rtol=1e-10)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-10)
    alone = Classifier(network, card | {"mirror": False}).probabilities(x)
    np.testing.assert_allclose(alone, softmax(network.forward(t)).numpy(), rtol=1e-10)


@every_mode
def test_scores_are_features_times_the_last_layers_weights(mode):
    network = small_network(mode)
    classifier = Classifier(network, modelfile.make_card(network, mode, CLASSES))
    last = network.layers[-1]
    features = classifier.features(pixels(5))
    assert features.shape == (5, last.w.shape[1]) and features.dtype == np.float32
    scores = features @ last.w.numpy().T + last.b.numpy()
    np.testing.assert_allclose(classifier.scores(features), scores, atol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(pixels(5)), softmax(scores), atol=1e-6)
    assert classifier.features(pixels(0)).shape == (0, last.w.shape[1])


@every_mode
def test_numpy_and_torch_agree(mode, tmp_path):
    x = pixels(5)
    data = model_file(small_network(mode), mode, tmp_path / "model")
    on_numpy, on_torch = (Classifier.load(data, arrays).probabilities(x) for arrays in ("numpy", "torch"))
    assert on_numpy.dtype == on_torch.dtype == np.float32
    np.testing.assert_allclose(on_numpy, on_torch, atol=1e-5)


def test_classify_is_decode_and_probabilities(model):
    classifier = Classifier.open(model)
    answer = classifier.classify(picture())
    p = classifier.probabilities(decode(picture(), 16)[None])[0]
    assert answer == {CLASSES[k]: float(p[k]) for k in range(3)}
    assert list(answer.values()) == sorted(answer.values(), reverse=True)


def predict(*arguments, cwd=None):
    command = [sys.executable, "-m", "scene.predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_command_prints_every_class_for_every_photo(model, tmp_path):
    for name in ("one.png", "two.png"):
        (tmp_path / name).write_bytes(picture())
    result = predict(tmp_path / "one.png", tmp_path / "two.png", "--model", model)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    answer = Classifier.open(model).classify(picture())
    scene = next(iter(answer))
    assert lines[8].startswith("2 photos in ") and lines[9:] == [
        f"       2  {scene}", "To sort them into folders, as a dry run first: python -m scene.predict "
        f"{tmp_path}/one.png {tmp_path}/two.png --model {model} --sort INTO --dry-run"]
    assert lines[0] == f"{tmp_path}/one.png: {scene}" and lines[4] == f"{tmp_path}/two.png: {scene}"
    assert [line.split()[1] for line in lines[1:4]] == list(answer)
    assert lines[1] == f"  {answer[scene]:7.2%}  {scene}"


def test_command_prints_json(model, tmp_path):
    one = tmp_path / "one.png"
    none = tmp_path / "none.png"
    one.write_bytes(picture())
    result = predict(one, none, "--model", model, "--json")
    answer = Classifier.open(model).classify(picture())
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == {"photo": str(one), "scene": next(iter(answer)),
                     "probabilities": pytest.approx(answer, abs=1e-6)}
    assert second == {"photo": str(none), "error": "cannot be read: No such file or directory"}
    assert result.returncode == 2


@pytest.fixture
def unsure(tmp_path):
    """A model that is never sure."""
    path = tmp_path / "unsure"
    path.write_bytes(calibrated(sure=np.float32(NEVER), strange=np.float32(1e9)))
    return path


def test_command_says_that_it_is_not_sure(unsure, tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
    result = predict(tmp_path / "one.png", "--model", unsure)
    first, *rows = result.stdout.splitlines()
    likeliest = list(Classifier.open(unsure).classify(picture()).items())
    words = ", ".join(f"{name} {100 * p:.0f} %" for name, p in likeliest[:2])
    assert first == f"{tmp_path}/one.png: not sure: {words}" and len(rows) == 3
    result = predict(tmp_path / "one.png", "--model", unsure, "--json")
    answer = json.loads(result.stdout)
    assert answer["sure"] is False and answer["reason"] == "close_call" and answer["scene"] == likeliest[0][0]


def test_a_bad_photo_is_a_sentence_and_the_others_are_answered(model, tmp_path):
    (tmp_path / "bad.jpg").write_text("<html>")
    (tmp_path / "good.png").write_bytes(picture())
    result = predict(tmp_path / "bad.jpg", tmp_path / "good.png", tmp_path / "none.png", "--model", model)
    assert result.returncode == 2
    assert result.stdout.startswith(f"{tmp_path}/good.png: ")
    assert result.stderr.splitlines() == [
        f"{tmp_path}/bad.jpg: not a JPEG, PNG or WebP photo but a web page.",
        f"{tmp_path}/none.png: cannot be read: No such file or directory."]


@pytest.mark.parametrize("content, message", [
    (None, "model: No such file or directory.\n"),
    (b"no model", "model is not a usable model: it is not a model file.\n"),
])
def test_a_bad_model_is_a_sentence(content, message, tmp_path):
    if content:
        (tmp_path / "model").write_bytes(content)
    result = predict("photo.jpg", "--model", "model", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)


# Many photos


@pytest.fixture
def folder(model, tmp_path):
    """A folder of 30 photos and four other files, in subfolders."""
    root = tmp_path / "photos"
    for i in range(30):
        path = root / f"{i % 3}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    (root / "0/bad.jpg").write_text("<html>")
    (root / "1/IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "1/IMG_1.mov").write_text("")
    (root / ".DS_Store").write_text("")
    return root


LISTED = """\
photos/0/bad.jpg: not a JPEG, PNG or WebP photo but a web page.
photos/1/IMG_1.HEIC: not a JPEG, PNG or WebP photo but HEIC, AVIF or a video: export it as JPEG.
"""


def expected(folder, model):
    """{path relative to the folder's parent: {class: probability}}, in order."""
    classifier = Classifier.open(model)
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder.parent)): classifier.classify(path.read_bytes()) for path in paths}


def test_json_lines_about_a_folder_in_the_order_of_names(folder, model):
    result = predict("photos", "--model", model, "--json", cwd=folder.parent)
    answers = list(map(json.loads, result.stdout.splitlines()))
    true = expected(folder, model)
    bad = ["photos/0/bad.jpg", "photos/1/IMG_1.HEIC"]
    assert [answer["photo"] for answer in answers] == sorted([*true, *bad])
    good = {answer["photo"]: answer["probabilities"] for answer in answers if "error" not in answer}
    assert good == {path: pytest.approx(answer, abs=1e-6) for path, answer in true.items()}
    assert result.returncode == 2 and result.stderr.startswith(LISTED)
    assert re.search(r"^32 photos in [\d.]+ s, [\d.]+ per second:$", result.stderr, re.MULTILINE)
    top = predict("photos/0/00.png", "--model", model, "--json", "--top", 2, cwd=folder.parent)
    assert (top.returncode, top.stderr) == (0, "")
    assert list(json.loads(top.stdout)["probabilities"].items()) == list(good["photos/0/00.png"].items())[:2]


def test_a_table_of_a_folder(folder, model):
    result = predict("photos", "--model", model, "--csv", "answers.csv", "--top", 2, cwd=folder.parent)
    with open(folder.parent / "answers.csv", newline="", encoding="utf-8") as file:
        rows = {row.pop("photo"): row for row in csv.DictReader(file)}
    true = expected(folder, model)
    for path, answer in true.items():
        (first, p), (second, q) = list(answer.items())[:2]
        assert rows[path] == {"scene": first, "probability": f"{p:.6f}", "scene_2": second,
                              "probability_2": f"{q:.6f}", "sure": "", "reason": "", "error": ""}
    assert len(rows) == 32 and rows["photos/0/bad.jpg"]["error"].endswith("but a web page")
    assert result.returncode == 2 and result.stderr == LISTED
    said = "The table is answers.csv.\nPassed over in the folders: 1 .mov file, 1 hidden file.\nTo sort them"
    assert said in result.stdout
    assert sorted(os.listdir(folder.parent)) == ["answers.csv", "model_FCNN", "photos"]


@pytest.mark.parametrize("file, words", [
    ("photos/0/00.png", "00.png is there already, and no table of this command: choose another name"),
    ("photos", "photos is there already"), ("none/x.csv", "its folder does not exist"),
    ("other.csv", "other.csv is there already, and no table of this command"),
])
def test_a_table_never_overwrites_anything_but_a_table(folder, model, file, words):
    (folder.parent / "other.csv").write_text("photo,class\n")
    before = snapshot(folder.parent)
    result = predict("photos/1", "--model", model, "--csv", file, cwd=folder.parent)
    assert result.returncode == 2 and words in result.stderr and result.stdout == ""
    assert snapshot(folder.parent) == before


def test_a_table_replaces_an_older_one(folder, model):
    for path in "photos/0", "photos/1/01.png":
        assert predict(path, "--model", model, "--csv", "a.csv", cwd=folder.parent).stdout != ""
    assert len((folder.parent / "a.csv").read_text().splitlines()) == 2


def test_sorting_and_bringing_back(folder, model):
    """The whole way, with every message: a dry run, the sort, the same again, and the undo."""
    before = snapshot(folder)
    true = {path: next(iter(answer)) for path, answer in expected(folder, model).items()}
    command = "photos", "--model", model, "--sort", "sorted", "--move"
    dry = predict(*command, "--dry-run", cwd=folder.parent)
    assert (dry.returncode, dry.stderr) == (2, LISTED) and not (folder.parent / "sorted").exists()
    moves = [f"{path} -> sorted/{scene}/{Path(path).name}" for path, scene in true.items()]
    lines = dry.stdout.splitlines()
    assert lines[:30] == moves
    assert lines[-1] == "Nothing was changed. The same command without --dry-run does it."

    done = predict(*command, cwd=folder.parent)
    assert (done.returncode, done.stderr) == (2, LISTED)
    after = {path: what for path, what in snapshot(folder.parent / "sorted").items() if "/" in path}
    assert set(after) == {f"{scene}/{Path(path).name}" for path, scene in true.items()}
    assert snapshot(folder) == {path: what for path, what in before.items() if not path.endswith(".png")}
    counts = {scene: number for number, scene in re.findall(r"(\d+)  moved to sorted/(\w+)", done.stdout)}
    assert counts == {scene: str(list(true.values()).count(scene)) for scene in set(true.values())}
    assert "       2  cannot be read, left in place\nPassed over in the folders: 1 .mov file" in done.stdout
    again = predict(*command, cwd=folder.parent)
    assert again.returncode == 2 and again.stderr == LISTED        # nothing is left but what cannot be read
    undo = re.search(r"^To take this back: python -m scene.predict (--undo sorted/undo_[\d_-]+.csv)$",
                     done.stdout, re.MULTILINE)[1].split()

    planned = predict(*undo, "--dry-run", cwd=folder.parent)
    assert (planned.returncode, planned.stderr) == (0, "") and planned.stdout.count(" -> photos/") == 30
    back = predict(*undo, cwd=folder.parent)
    assert (back.returncode, back.stderr) == (0, "")
    again = "python -m scene.predict photos --model MODEL --sort sorted"
    assert re.fullmatch(r"30 photos in .* per second:\n      30  moved back\n"
                        rf"To sort them again: {again}\n", back.stdout)
    assert snapshot(folder) == before and len(os.listdir(folder.parent / "sorted")) == 1


def test_moving_again_what_has_been_moved_is_no_mistake(folder, model, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    (folder / "0/bad.jpg").unlink()
    (folder / "1/IMG_1.HEIC").unlink()
    for said in "30 photos in", "0 photos in":
        assert in_process("photos", "--model", model, "--sort", "sorted", "--move") == 0
        output, errors = capsys.readouterr()
        assert output.startswith(said)
    assert errors == "photos: no photos in it.\n" and output.endswith("\nNothing was changed.\n")


def in_process(*arguments):
    return run(parse(list(map(str, arguments))))


def test_sorted_twice_and_moved_after_copied(folder, model, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    command = "photos/0", "photos/2", "--model", model, "--sort", "sorted"
    assert in_process(*command) == 2                                # for bad.jpg
    assert sum(map(int, re.findall(r"(\d+)  copied to sorted/", capsys.readouterr().out))) == 20
    for option in [], ["--move"]:
        before = snapshot(folder.parent)
        assert in_process(*command, *option) == 2
        output, errors = capsys.readouterr()
        assert "      20  already there\n" in output and output.endswith("Nothing was changed.\n")
        listed = re.findall(r"(photos\S+): left in place, since the same photo is there already \((\S+)\)\.",
                            errors)
        assert len(listed) == (20 if option else 0) and snapshot(folder.parent) == before
    assert ("photos/0/00.png", f"sorted/{Path(listed[0][1]).parent.name}/00.png") == listed[0]


def test_a_photo_that_the_model_is_not_sure_about(folder, model, monkeypatch, capsys):
    """Here the doubt is made up, so that it is about some photos and not about others."""
    def doubtful(classifier, data, *limits, real=Classifier.answer):
        return real(classifier, data, *limits) | {"sure": data[-20] % 2 == 0, "reason": "close_call"}

    monkeypatch.setattr(Classifier, "answer", doubtful)
    monkeypatch.chdir(folder.parent)
    paths = sorted(folder.rglob("*.png"))
    unsure = {path.name for path in paths if path.read_bytes()[-20] % 2}
    assert in_process(*paths, "--model", model, "--sort", "sorted", "--csv", "a.csv") == 0
    assert set(os.listdir("sorted/unsure")) == unsure and 0 < len(unsure) < 30
    with open("a.csv", newline="") as file:
        assert {row["sure"] for row in csv.DictReader(file)} == {"true", "false"}
    capsys.readouterr()
    path = next(path for path in paths if path.name in unsure)
    answer = list(Classifier.open(model).classify(path.read_bytes()).items())
    assert in_process(path, "--model", model) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{path}: not sure: " + ", ".join(
        f"{name} {100 * p:.0f} %" for name, p in answer[:2])


@pytest.mark.parametrize("arguments, words", [
    ([], "give photos or folders, or --undo"), (["a.jpg", "--undo", "x"], "give photos or folders, or"),
    (["a.jpg", "--move"], "go with --sort"), (["a.jpg", "--dry-run"], "go with --sort"),
    (["--undo", "x", "--sort", "y"], "--undo goes with no"), (["a.jpg", "--top", "0"], "--top is at least 1"),
])
def test_options_that_do_not_go_together(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("content, words", [
    (None, "undo_1.csv: No such file or directory."),
    ("photo,scene\n", "undo_1.csv is not an undo file, or damaged in line 1: nothing was changed."),
])
def test_an_undo_file_that_is_none(tmp_path, content, words):
    if content:
        (tmp_path / "undo_1.csv").write_text(content)
    result = predict("--undo", "undo_1.csv", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", words + "\n")


@pytest.mark.parametrize("arguments, words", [
    (["photos", "--sort", "photos/x"],
     "photos/x and photos lie in one another: choose another folder to sort into."),
    (["empty"], "empty: no photos in it."), (["none"], "none: cannot be read: No such file or directory."),
    (["*.xyz"], "*.xyz: no file or folder matches this pattern."),
])
def test_nothing_to_answer(folder, model, arguments, words):
    (folder.parent / "empty").mkdir()
    result = predict(*arguments, "--model", model, cwd=folder.parent)
    assert (result.returncode, result.stdout) == (2, "") and result.stderr == words + "\n"


def test_a_long_list_is_cut(folder, model, monkeypatch, capsys):
    for i in range(60):
        (folder / f"{i:02}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert in_process(folder, "--model", model, "--csv", folder.parent / "a.csv") == 2
    errors = capsys.readouterr().err.splitlines()
    assert sum(line.endswith("export it as JPEG.") for line in errors) == 50
    assert "and 11 more like this." in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sort_that_is_stopped_says_how_to_go_on(folder, model, number):
    """And the same command then finishes it, in the same undo file."""
    before = snapshot(folder)
    command = [sys.executable, "-c", "import time; from scene import errors, predict; "
               "from scene.photos.sort import Sorter; put = Sorter.put\n"
               "def slow(*arguments): print('sorts', flush=True); time.sleep(0.2); return put(*arguments)\n"
               "Sorter.put = slow\n"
               "raise SystemExit(errors.run(predict.run, predict.parse(None)))"]
    options = ["photos", "--model", str(model), "--sort", "sorted", "--move"]
    process = subprocess.Popen([*command, *options], cwd=folder.parent, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for _ in range(4):
        assert process.stdout.readline() == "sorts\n"
    process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode == 128 + number
    said = r"\nStopped. No photo is lost: the same command continues, and python -m scene.predict --undo " \
        r"(sorted/undo_\S+.csv) takes back what was sorted.\n"
    undo = re.fullmatch(said, errors)[1]
    again = predict(*options, cwd=folder.parent)
    assert f"Continues the sorting that was cut off ({undo}).\n" in again.stdout
    assert [path.name for path in (folder.parent / "sorted").glob("undo*")] == [Path(undo).name]
    assert predict("--undo", undo, cwd=folder.parent).returncode == 0
    assert snapshot(folder) == before


@pytest.mark.parametrize("names", [[b"\xff.png", b"a\nb.png", b"=1+1.png"]])
def test_names_of_every_kind_in_every_output(model, tmp_path, names):
    for i, name in enumerate(names):
        (tmp_path / os.fsdecode(name)).write_bytes(picture(i))
    result = predict(*map(os.fsdecode, names), "--model", model, "--csv", "a.csv", "--json", cwd=tmp_path)
    assert result.returncode == 0
    assert [os.fsencode(json.loads(line)["photo"]) for line in result.stdout.splitlines()] == names
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["photo"] for row in rows] == ["%FF.png", "a%0Ab.png", "%3D1+1.png"]
    assert [os.fsencode(unquote(row["photo"])) for row in rows] == names
