"""The example photographs: complete, small, and the same as datasets/make_example.py renders today."""

import importlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATASETS = Path(__file__).parents[1] / "datasets"


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(DATASETS)   # for its neighbours camera.py and things.py
    return importlib.import_module("make_example")


def encoded(maker, split, name, index):
    file = io.BytesIO()
    maker.save(maker.picture(split, name, index), file)
    return file.getvalue()


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), float)


def test_every_class_has_its_photos(maker):
    for split, count in maker.SPLITS.items():
        assert sorted(folder.name for folder in (DATASETS / split).iterdir()) == sorted(maker.CLASSES)
        for name in maker.CLASSES:
            names = sorted(file.name for file in (DATASETS / split / name).iterdir())
            assert names == [f"{name}_{index:03}.jpg" for index in range(count)]


def test_all_are_small_jpegs(maker):
    files = sorted(DATASETS.glob("t*/*/*.jpg"))
    assert sum(file.stat().st_size for file in files) < 2_500_000
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 96)), file


def test_no_two_are_alike():
    files = sorted(DATASETS.glob("t*/*/*.jpg"))
    assert len({file.read_bytes() for file in files}) == len(files)


@pytest.mark.parametrize("name", ["grass", "ocean", "redcarpet", "road", "wheatfield"])
@pytest.mark.parametrize(("split", "index"), [("train", 3), ("test", 39)])
def test_the_folder_holds_what_the_program_draws(maker, split, name, index):
    drawn = pixels(io.BytesIO(encoded(maker, split, name, index)))
    stored = pixels(DATASETS / split / name / f"{name}_{index:03}.jpg")
    assert np.abs(drawn - stored).mean() < 2        # of 255: another libjpeg or CPU may round differently


def test_same_bytes_each_time(maker):
    assert encoded(maker, "train", "road", 0) == encoded(maker, "train", "road", 0)
