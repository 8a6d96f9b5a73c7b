"""lambda/build.py: the zips are small, complete and reproducible, and answer every photo like the sources."""

import base64
import json
import os
import random
import shutil
import struct
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import build
from samples import samples
from scene.answer import endpoint
from scene.answer.classifier import Classifier
from scene.answer.modelfile import ModelFileError
from scene.errors import UserError
from scene.models import MODES
from tests import runtime
from tests.runtime import NATIVE

OTHER = {"arm64": "x86_64", "x86_64": "arm64"}[NATIVE]
ELF_MACHINE = {"arm64": 183, "x86_64": 62}      # the ELF specification's numbers
LAYER = f"layer-{NATIVE}.zip"


@pytest.fixture(scope="module")
def other(tmp_path_factory, models, bundle):
    """lambda/build.py's output for the architecture that this machine does not have."""
    if shutil.which(f"{build.MACHINES[OTHER]}-linux-gnu-strip") is None:
        pytest.skip(f"needs binutils for {OTHER}")
    folder = tmp_path_factory.mktemp("other")
    result = runtime.build(folder, models, arch=OTHER)
    assert result.returncode == 0, result.stderr
    return folder


def entries(path):
    return zipfile.ZipFile(path).infolist()


def libraries(path):
    """{name: bytes} of the shared libraries in a zip."""
    return {e.filename: zipfile.ZipFile(path).read(e) for e in entries(path) if ".so" in e.filename}


# Contents


def test_the_files_and_their_limits(bundle, models):
    written = {path.name for path in bundle.iterdir() if path.is_file()}
    assert written == {"get_scene.zip", LAYER, *(f"model_{mode}" for mode in MODES)}
    assert (bundle / "get_scene.zip").stat().st_size <= 150_000
    assert (bundle / LAYER).stat().st_size <= 16_000_000
    assert sum(entry.file_size for entry in entries(bundle / LAYER)) <= 45 * 2**20
    for model in models.iterdir():
        assert (bundle / model.name).read_bytes() == model.read_bytes()


def test_nothing_but_what_prediction_needs(bundle):
    code = {entry.filename for entry in entries(bundle / "get_scene.zip")}
    needed = {f"scene/{name}.pyc" for name in ("answer/endpoint", "photos/decode", "nn/winograd")}
    assert {"get_scene.pyc"} | needed <= code
    others = {f"scene/{name}.pyc" for name in ("learn/loop", "learn/augment", "photos/folder", "main")}
    assert all((runtime.ROOT / name).with_suffix(".py").exists() for name in others)
    assert not code & others
    layer = {entry.filename for entry in entries(bundle / LAYER)}
    assert {name.split("/")[0] for name in layer} == {"python"}     # the folder that Lambda puts on the path
    assert "python/numpy/linalg/_linalg.pyc" in layer
    assert "python/PIL/TiffImagePlugin.pyc" in layer                # which reads EXIF
    licenses = {name for name in layer if "/licenses/" in name}     # they have to accompany the packages
    assert len({name.split("/")[1] for name in licenses}) == 3
    unwanted = "/test", "f2py", "/random", "avif", "-info"
    assert not [name for name in layer - licenses for word in unwanted if word in name]


def test_an_entry_tells_nothing_of_the_day_or_the_machine(bundle):
    for name in "get_scene.zip", LAYER:
        names = [entry.filename for entry in entries(bundle / name)]
        assert names == sorted(names, key=lambda name: name.split("/"))
        for entry in entries(bundle / name):
            assert (entry.date_time, entry.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0o644)
            data = zipfile.ZipFile(bundle / name).read(entry)
            assert os.fsencode(runtime.ROOT) not in data and b"/scene-" not in data, entry.filename
            if entry.filename.endswith(".pyc"):
                assert data[4:8] == b"\1\0\0\0", "the flags of an unchecked hash instead of a date"
                assert (b"/opt/python/" if name == LAYER else b"/var/task/") in data


def test_only_the_packages_keep_their_docstrings(bundle):
    """Some code of NumPy reads its own, and nobody reads ours in Lambda."""
    handler = zipfile.ZipFile(bundle / "get_scene.zip").read("get_scene.pyc")
    assert b"handler" in handler and b"Answers one event" not in handler
    numeric = zipfile.ZipFile(bundle / LAYER).read("python/numpy/_core/numeric.pyc")
    assert b"Return an array of zeros" in numeric


def test_another_day_and_folder_give_the_same_bytes(bundle, models, tmp_path):
    away = tmp_path / "away"
    temporary = tmp_path / "temporary"
    away.mkdir()
    temporary.mkdir()
    result = runtime.build(tmp_path / "output", models, folder=away, TMPDIR=str(temporary), TZ="Asia/Tokyo",
                           PYTHONHASHSEED="77", LANG="C", PYTHONOPTIMIZE="2")
    assert result.returncode == 0, result.stderr
    for name in "get_scene.zip", LAYER, *(f"model_{mode}" for mode in MODES):
        assert (tmp_path / "output" / name).read_bytes() == (bundle / name).read_bytes(), name
    assert not list(temporary.iterdir())


# The other architecture


def test_the_other_architecture_gets_the_same_modules(bundle, other):
    def modules(path):
        return {entry.filename.split(".")[0] for entry in entries(path) if ".libs/" not in entry.filename}

    assert modules(other / f"layer-{OTHER}.zip") == modules(bundle / LAYER)
    assert (other / "get_scene.zip").read_bytes() == (bundle / "get_scene.zip").read_bytes()
    assert (other / f"layer-{OTHER}.zip").stat().st_size <= 16_000_000
    assert sum(entry.file_size for entry in entries(other / f"layer-{OTHER}.zip")) <= 45 * 2**20


def test_every_library_is_one_that_the_loader_takes(bundle, other):
    """For its machine, with each loadable segment as far from a page's start in the file as in memory."""
    for arch, path in (NATIVE, bundle / LAYER), (OTHER, other / f"layer-{OTHER}.zip"):
        for name, elf in libraries(path).items():
            assert struct.unpack_from("<H", elf, 18) == (ELF_MACHINE[arch],), name
            start = struct.unpack_from("<Q", elf, 32)[0]
            size, count = struct.unpack_from("<HH", elf, 54)
            segments = [struct.unpack_from("<II6Q", elf, start + i * size) for i in range(count)]
            loaded = [segment for segment in segments if segment[0] == 1]
            shifts = [(address - offset) % page for _, _, offset, address, *_, page in loaded]
            assert shifts and not any(shifts), name


def test_every_library_finds_those_it_needs(bundle, other, tmp_path):
    for arch, path in (NATIVE, bundle / LAYER), (OTHER, other / f"layer-{OTHER}.zip"):
        zipfile.ZipFile(path).extractall(tmp_path / arch)
        files = list((tmp_path / arch).rglob("*.so*"))
        assert sorted(build.with_libraries(files, tmp_path / arch / "python", arch)) == sorted(files)


# Answers


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of every kind, and five damaged copies of each."""
    folder = tmp_path_factory.mktemp("photos")
    draw = random.Random(0)
    for name, data in samples().items():
        (folder / name).write_bytes(data)
        for i in range(5 if data else 0):
            damaged = bytearray(data)
            for _ in range(draw.randint(1, 8)):
                damaged[draw.randrange(len(data))] = draw.randrange(256)
            (folder / f"{name}, damaged {i}").write_bytes(damaged)
    return folder


def try_out(python, bundle, photos, models):
    work = bundle.parent / "trial"
    work.mkdir(exist_ok=True)
    for name, folder in ("models", models), ("photos", photos):
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(folder)
    return build.try_out(python, work, bundle / "code", bundle / "layer/python")


def test_every_photo_gets_the_answer_that_the_sources_give(python313, bundle, photos, models):
    tried = try_out(python313, bundle, photos, models)
    packages = "numpy", "PIL", "safetensors", "scene"
    missing = [name for name in tried["missing"] if name.startswith(packages)]
    assert missing == ["numpy._distributor_init_local"]     # NumPy leaves it to distributors
    loaded = {mode: Classifier.open(models / f"model_{mode}") for mode in MODES}
    statuses = []
    for photo in photos.iterdir():
        for mode in loaded:
            request = {"mode": mode, "imageBase64": base64.b64encode(photo.read_bytes()).decode(),
                       "map": photo.name == "jpeg"}
            wanted, answer, _ = endpoint.answer(request, "trial", loaded.__getitem__)
            status, got = tried["answers"][f"{mode}: {photo.name}"]
            statuses.append(status)
            if ", damaged" not in photo.name:
                assert (wanted == 200) != photo.name.startswith("refused"), photo.name
            if not answer.get("map", {}).get("exact", True):        # by gradients: the bundle has no torch
                assert (status, got["error"]["code"]) == (400, "map_needs_torch")
                continue
            if wanted == 200:
                expected = pytest.approx(answer.pop("probabilities"), abs=1e-5)
                assert got.pop("probabilities") == expected, photo.name
            if "map" in answer:
                expected = np.array(answer["map"].pop("places"))
                np.testing.assert_allclose(got["map"].pop("places"), expected, atol=1e-4)
                assert got.pop("map") == pytest.approx(answer.pop("map"), abs=1e-4)
            assert (status, got) == (wanted, json.loads(json.dumps(answer))), photo.name
    assert {200, 400, 413} == set(statuses)
    assert statuses.count(200) > 60 and statuses.count(400) > 100      # most damage is noticed


def test_a_module_left_out_is_noticed_though_the_error_is_swallowed(python313, bundle, models, tmp_path):
    poor = tmp_path / "bundle"
    for name in "code", "layer":
        shutil.copytree(bundle / name, poor / name)
    (poor / "layer/python/PIL/TiffImagePlugin.pyc").unlink()
    photos = tmp_path / "photos"
    build.write_all(photos, {"turned": samples()["jpeg turned"]})
    expected, found = (try_out(python313, folder, photos, models) for folder in (bundle, poor))
    with pytest.raises(UserError) as caught:
        build.compare(expected, found)
    turned = ", ".join(f"{mode}: turned" for mode in sorted(MODES))
    assert str(caught.value) == f"The zips answer differently from the whole packages: {turned}."
    with pytest.raises(UserError, match="lack PIL.TiffImagePlugin"):
        build.compare(found | {"missing": []}, found)


def test_numpy_can_warn_and_raise_and_print(python313, bundle):
    """NumPy imports some modules only for such errors."""
    script = """
import traceback, warnings
import numpy as np
warnings.simplefilter("error")
for mishap in (lambda: np.log(np.zeros(1)), lambda: np.ones(3) @ np.ones(2), lambda: np.add("a", 1),
               lambda: np.empty(1 << 50), lambda: np.linalg.inv(np.zeros((2, 2))),
               lambda: np.ones(3).reshape(2), lambda: np.uint8(512)):
    try:
        mishap()
    except Exception as error:
        print(type(error).__name__, traceback.format_exception(error)[-1] != "")
print(np.arange(3.0), repr(np.float32(1)), np.ones(2).tolist())
"""
    script = f"import sys; sys.path.append({str(bundle / 'layer/python')!r})\n{script}"
    result = subprocess.run([python313, "-I", "-S", "-c", script], capture_output=True, text=True)
    assert result.stdout.split("\n")[:-1] == [
        "RuntimeWarning True", "ValueError True", "UFuncTypeError True", "MemoryError True",
        "LinAlgError True", "ValueError True", "OverflowError True",
        "[0. 1. 2.] np.float32(1.0) [1.0, 1.0]"], result.stderr


# Failures


def refused(result, folder):
    """The sentence of a build that was refused. It must have written nothing."""
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert not folder.exists()
    return result.stderr


def programs(folder, *names):
    """A folder for the PATH that holds only these programs."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


def test_no_python_3_13(models, tmp_path):
    path = programs(tmp_path / "bin", "strip", "readelf")
    message = refused(runtime.build(tmp_path / "bucket", models, PATH=path), tmp_path / "bucket")
    assert "install Python 3.13" in message


def test_no_binutils(python313, models, tmp_path):
    path = programs(tmp_path / "bin", "readelf")
    (tmp_path / "bin/python3.13").symlink_to(python313)
    message = refused(runtime.build(tmp_path / "bucket", models, PATH=path), tmp_path / "bucket")
    assert "strip is not on the PATH: install binutils" in message
    (tmp_path / "bin/strip").symlink_to(shutil.which("strip"))
    message = refused(runtime.build(tmp_path / "bucket", models, arch=OTHER, PATH=path), tmp_path / "bucket")
    assert f"install binutils for {OTHER}" in message


def test_no_network(python313, models, tmp_path):
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "",
               "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    result = runtime.build(tmp_path / "bucket", models, **offline)
    message = refused(result, tmp_path / "bucket")
    assert "pip could not fetch numpy==" in message and "Is the network up?" in message


def test_models_that_will_not_do(python313, models, tmp_path):
    broken = tmp_path / "models"
    shutil.copytree(models, broken)
    shutil.copy(broken / "model_CNN", broken / "model_CNN_2")
    message = refused(runtime.build(tmp_path / "bucket", broken), tmp_path / "bucket")
    assert "are models of the same mode: leave one out" in message
    (broken / "model_CNN_2").write_bytes(b"pickle")
    message = refused(runtime.build(tmp_path / "bucket", broken), tmp_path / "bucket")
    assert "model_CNN_2 is not a usable model" in message


def test_over_a_limit(capsys):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(build.MAX_UNPACKED))
    build.check_sizes({LAYER: file.getvalue()})
    assert "45.0 MiB unpacked" in capsys.readouterr().out
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("one more", b"1")
    with pytest.raises(UserError, match=f"{LAYER}: over the size limit, so nothing was written"):
        build.check_sizes({LAYER: file.getvalue()})
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("noise", bytes(build.MAX_CODE))
    with pytest.raises(UserError, match="get_scene.zip: over the size limit"):
        build.check_sizes({"get_scene.zip": file.getvalue()})


def test_a_library_for_another_machine_or_with_other_needs(bundle, monkeypatch):
    library = next(Path(bundle / "layer/python/PIL").glob("_imaging.*"))
    with pytest.raises(UserError, match=f"is not for {OTHER}"):
        build.with_libraries([library], bundle / "layer/python", OTHER)
    monkeypatch.setattr(build, "SYSTEM", build.SYSTEM - {"libz.so.1"})
    with pytest.raises(UserError, match="needs libz.so.1, which neither its wheel nor every Linux has"):
        build.with_libraries([library], bundle / "layer/python", NATIVE)


def test_pretrained_models_are_the_default(models, monkeypatch, capsys):
    monkeypatch.setattr(build, "PRETRAINED", {mode: models / f"model_{mode}" for mode in MODES})
    chosen = build.choose_models([models / "model_CNN"])
    assert chosen == runtime.read_files(models)
    assert f"model_FCNN: {models / 'model_FCNN'}" in capsys.readouterr().out
    with pytest.raises(ModelFileError):
        build.choose_models([__file__])


def test_a_mode_with_neither_a_given_nor_a_pretrained_model_gets_none(models, monkeypatch, capsys):
    monkeypatch.setattr(build, "PRETRAINED", {"FCNN": models / "model_FCNN"})
    assert build.choose_models([]) == {"model_FCNN": (models / "model_FCNN").read_bytes()}
    assert "model_CNN: none, since Scene has no pretrained one\n" in capsys.readouterr().out
    both = {name: (models / name).read_bytes() for name in ("model_CNN", "model_FCNN")}
    assert build.choose_models([models / "model_CNN"]) == both


def test_a_pretrained_model_has_to_open(models, monkeypatch):
    monkeypatch.setattr(build, "PRETRAINED", {"FCNN": __file__, "CNN": models / "model_CNN"})
    with pytest.raises(ModelFileError, match="test_build.py is not a usable model"):
        build.choose_models([])
    assert "model_FCNN" in build.choose_models([models / "model_FCNN"])
