"""show/: the report of every kind of training, in one safe file. tests/test_browser.py opens it."""

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scene.show import charts, matrix, report
from scene.show.markup import join, tag, text
from scene.show.pictures import Pictures, thumbnail
from scene.show.sections import in_words
from tests import reports
from tests.jobs import main_job, make_photos

CSS = "".join((Path(report.__file__).parent / name).read_text(encoding="utf-8")
              for name in ("style.css", "report.css"))


class Page(HTMLParser):
    """The elements of a page: [(name, {attribute: value})], its text, and whether all elements are closed."""

    VOID = {"meta", "img", "br"}

    def __init__(self, content):
        super().__init__()
        self.elements = []
        self.open = []
        self.words = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words += data

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A report of classes and photos with names that try to break out, with every section."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    wrong = np.arange(30) % 5 == 0
    p = np.full((30, 4), 0.1) + 0.6 * np.eye(4)[(np.arange(30) + wrong) % 4]
    content, entries = reports.make(
        path, leaks=2, train=30, out_of_fold=p,
        findings=[{"verdict": "warning", "where": "/t/ocean/<i>.jpg and /t/x/b.jpg",
                   "what": "the same photo in two classes: keep it in one class only"}])
    return Page(content), content, entries


# Safe


def test_names_are_text_and_nothing_else(nasty):
    page, content, _ = nasty
    assert page.open == [] and len(page.all("script")) == len(page.all("style")) == 1
    assert not re.search(r"<script>alert|<img src=x|<b>|<i>", content)
    assert "<script>alert(1)<!--.jpg" in page.words and '"&<b>' in page.words and "\\n\xff.png" in page.words
    assert 'cd \'/tmp/<b>\' && python' in page.words


def test_no_element_has_a_style_or_a_handler_and_nothing_is_fetched(nasty):
    page, content, _ = nasty
    for name, attributes in page.elements:
        assert not [key for key in attributes if key == "style" or key.startswith("on")], name
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("#", "data:image/webp;base64,")), (name, value)
    assert not re.search(r"url\(|@import", CSS) and "http://" not in content and "https://" not in content


def test_the_policy_allows_exactly_what_is_in_the_file(nasty):
    page, content, _ = nasty
    policy, = [meta["content"] for meta in page.all("meta")
               if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    for name in ("style", "script"):
        inside = re.search(f"<{name}>(.*?)</{name}>", content, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_thumbnails_have_no_exif(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "the maker of the camera"
    path = tmp_path / "a.jpg"
    Image.new("RGB", (300, 200), "red").save(path, exif=exif)
    pictures = Pictures(np.zeros((1, 16, 16, 3), np.uint8), [str(path)])
    url = re.search(r'base64,([^"]+)"', pictures.picture(0, 100))[1]
    data = base64.b64decode(url)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (100, 100) and not image.getexif() and b"maker" not in data
        assert image.convert("RGB").getpixel((50, 50))[0] > 200             # decoded again: not the zeros


def test_spaces_around_words_stay_spaces(nasty):
    assert tag("p", " a ", "b\xa0% ", " ", "\tc\n") == "<p> a b\xa0%  \\tc\\n</p>"
    page, _, _ = nasty
    assert "\\x20" not in page.words and " of them into the right class, which is " in page.words


def test_markup_escapes_by_construction():
    assert tag("p", "<", join("&", text('"')), title='"') == '<p title="&quot;">&lt;&amp;&quot;</p>'
    for name in ("style", "onclick"):
        with pytest.raises(ValueError, match="report.css"):
            tag("p", **{name: "x"})


# Complete


SECTIONS = ["result", "learning", "confusions", "mistakes", "unsure", "classes", "trust", "labels",
            "duplicates", "atlas", "neighbours", "made"]


def test_the_sections_are_there_in_this_order(nasty):
    page, content, _ = nasty
    ids = [attributes["id"] for name, attributes in page.elements if name in ("header", "section")]
    assert ids == SECTIONS == list(report.NAMES)
    assert [link["href"] for link in page.all("a")][1:13] == [f"#{key}" for key in SECTIONS]


def test_every_link_leads_to_a_place_and_no_place_is_there_twice(nasty):
    page, _, _ = nasty
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for attributes in page.all("a")}
    assert links <= set(ids) and any(link.startswith("cell-") for link in links)


def test_it_can_be_read_by_a_screen_reader(nasty):
    page, _, _ = nasty
    names = [name for name, _ in page.elements]
    assert names.count("h1") == 1 and {"nav", "main", "header", "footer", "section"} <= set(names)
    assert page.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    labelled = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert all(section["aria-labelledby"] in labelled for section in page.all("section"))
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_it_says_what_the_metrics_say(nasty):
    page, _, entries = nasty
    words = page.words.replace("\xa0", " ")
    right = round(entries["accuracy"] * 60)
    assert f"{right} of them into the right class, which is {entries['accuracy']:.1%}"[:-1] in words
    assert "2 of the 60 test photos are also training photos" in words
    assert entries["command"] in words and entries["model"]["sha256"] in words
    counts = np.array(entries["confusion"])
    np.fill_diagonal(counts, 0)
    (i, j), count = np.unravel_index(counts.argmax(), counts.shape), counts.max()
    assert f"{reports.NASTY[i]} is taken for {reports.NASTY[j]} ({count} of 15)" in words


def test_labels_of_training_photos_are_suspected_too_with_folds(nasty, tmp_path):
    page, _, _ = nasty
    found = re.findall(r"/nowhere/(.*?)/(\d+)", page.words.partition("as a list")[2])
    assert {"0", "5", "10", "15", "20", "25"} <= {number for _, number in found}
    assert "of the training and test photos" in page.words and "--folds 5" not in page.words
    assert "Of the training photos" in page.words.partition("as a list")[0]
    without, _ = reports.make(tmp_path / "r.html")
    assert "Only the test photos were checked" in without and "--folds 5" in without


def test_each_cell_has_all_its_photos(nasty):
    page, content, entries = nasty
    for i, row in enumerate(entries["confusion"]):
        for j, count in enumerate(row):
            found = re.search(f'<article id="cell-{i}-{j}".*?</article>', content, re.DOTALL)
            assert (found[0].count("<img") if found else 0) == count


def test_the_same_run_gives_the_same_bytes(tmp_path):
    one, other = (reports.make(tmp_path / f"{i}.html", count=24)[0] for i in range(2))
    assert one == other


# Of every size


def sure(classes, answers):
    """Probabilities of these answers."""
    return (0.1 / classes + 0.9 * np.eye(classes)[answers]).astype(np.float32)


@pytest.mark.parametrize("mode", ["CNN", "FCNN"])
def test_a_perfect_network(mode, tmp_path):
    labels = np.arange(20) % 2
    content, _ = reports.make(tmp_path / "r.html", ["a", "b"], 20, mode, probabilities=sure(2, labels))
    page = Page(content)
    assert "It puts every photo into the right class" in page.words and "Nothing: every photo" in page.words
    assert 'id="mistakes"' not in content and 'id="neighbours"' not in content
    assert "None of the test photos seems to be in the wrong folder" in page.words


def test_a_network_that_is_always_wrong_and_a_single_photo(tmp_path):
    content, _ = reports.make(tmp_path / "r.html", ["a", "b"], 20,
                              probabilities=sure(2, 1 - np.arange(20) % 2), train=0)
    assert "It puts no photo into the right class" in Page(content).words and 'id="unsure"' not in content
    content, _ = reports.make(tmp_path / "r.html", ["a", "b"], 1, train=0)
    assert 'id="atlas"' not in content and 'id="trust"' not in content and Page(content).open == []


def test_of_many_classes_the_most_confused_are_shown(tmp_path):
    classes = [f"class {k:04}" for k in range(1000)]
    answers = np.arange(2000) % 1000
    answers[:30] = 999 - answers[:30]
    content, _ = reports.make(tmp_path / "r.html", classes, 2000, probabilities=sure(1000, answers), train=0)
    assert "Of 1000 classes, it shows the 40 with the most mistakes" in Page(content).words
    assert "The other 990 classes" in Page(content).words and content.count('class="classes"') == 2
    drawn = re.search(r'<svg[^>]*class="matrix.*?</svg>', content, re.DOTALL)[0]
    assert drawn.count("<a ") == 50 and len(content) < 5_000_000        # 10 mistakes, 40 classes
    page = Page(content)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a")} <= ids


def test_what_does_not_fit_is_left_out_and_counted(tmp_path, monkeypatch):
    whole, _ = reports.make(tmp_path / "r.html", ["a", "b", "c"], 300, train=0)
    monkeypatch.setattr(report, "MOST_BYTES", len(whole.encode()) - 40_000)
    content, _ = reports.make(tmp_path / "r.html", ["a", "b", "c"], 300, train=0)
    assert len(content.encode()) <= report.MOST_BYTES
    shown, left = [], []
    for article in re.findall("<article.*?</article>", content, re.DOTALL):
        more = re.search(r"\b(1 photo more is|\d+ photos more are) left out, to keep this file", article)
        shown.append(article.count("<img"))
        left.append(int(more[1].split()[0]) if more else 0)
        assert shown[-1] + left[-1] == int(re.search(r"<span>(\d+) photo", article)[1])
    assert sum(shown) + sum(left) == 300 and sum(left) > 50


def test_a_cell_shows_at_most_60_mistakes_or_24_right_answers(tmp_path):
    labels = np.arange(200) % 2
    answers = np.where((labels == 0) & (np.arange(200) > 60), 1, labels)       # 31 right, 69 wrong
    content, _ = reports.make(tmp_path / "r.html", ["a", "b"], 200, probabilities=sure(2, answers), train=0)
    shown = {cell: re.search(f'<article id="cell-{cell}".*?</article>', content, re.DOTALL)[0]
             for cell in ("0-0", "0-1", "1-1")}
    assert [cell.count("<img") for cell in shown.values()] == [24, 60, 24]
    assert "7 photos more are left out" in shown["0-0"] and "9 photos more" in shown["0-1"]


def test_a_curve_needs_two_epochs_and_a_photo_may_be_gone(tmp_path):
    content, _ = reports.make(tmp_path / "r.html", count=24)
    assert 'id="learning"' in content and "held out: " in content
    few = reports.photos(["a", "b"], 4)
    gone = Pictures(few.pixels, few.paths).picture(0, 100)
    assert thumbnail(few.pixels[0], 100) in gone


@pytest.mark.parametrize(("right", "total", "words"), [
    (804, 1000, "8 of 10 photos"), (563, 1000, "56 of 100 photos"), (190, 200, "19 of 20 photos"),
    (200, 200, "every photo"), (0, 7, "no photo"), (9999, 10000, "almost every photo"),
    (1, 3000, "almost no photo"), (1, 2, "5 of 10 photos"), (2, 3, "67 of 100 photos")])
def test_the_accuracy_in_words(right, total, words):
    assert in_words(right, total) == words
    number = re.match(r"(\d+) of (\d+)", words)
    assert number is None or abs(int(number[1]) / int(number[2]) - right / total) <= 0.0101


@pytest.mark.parametrize(("share", "shown"), [
    (1, "100 %"), (0, "0 %"), (0.999, ">99 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.994, "99 %")])
def test_a_percentage_is_never_rounded_to_all_or_nothing(share, shown):
    assert charts.percent(share).replace("\xa0", " ") == shown


def test_confused_classes_stand_side_by_side():
    counts = np.diag([20] * 6)
    for i, j in ((0, 3), (3, 5), (1, 4), (4, 2)):
        counts[i, j] = counts[j, i] = 9
    order = matrix.side_by_side(counts)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[:3]), frozenset(order[3:])} == {frozenset({0, 3, 5}), frozenset({1, 4, 2})}
    assert matrix.side_by_side(np.diag([1, 2, 3, 4])) == [0, 1, 2, 3]


# Readable


def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    """The contrast ratio of two colours.   Source: WCAG 2.2, relative luminance and contrast ratio."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(palette):
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", palette))
    for ink in ("ink", "soft", "good", "bad"):
        for paper in ("paper", "sheet", "wash"):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    for strong in ("good", "bad"):
        assert contrast(colours["on"], colours[strong]) >= 4.5, strong
    for chip in re.findall(r"\.(?:for|against) \{ background: (#\w{6})", CSS):
        assert contrast("#ffffff", chip) >= 4.5


# Of the command


def test_training_and_testing_write_a_report_and_no_report_writes_none(tmp_path):
    make_photos(tmp_path / "train")
    make_photos(tmp_path / "test")
    trained = main_job("train", "test", "FCNN", "--epochs", 3, "--precision", "float32", cwd=tmp_path)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert "report: ./report_FCNN.html" in trained.stdout
    content = (tmp_path / "report_FCNN.html").read_text(encoding="utf-8")
    entries = json.loads((tmp_path / "metrics_FCNN.json").read_text())
    page = Page(content)
    assert 'id="learning"' in content and entries["model"]["sha256"] in page.words
    assert [set(epoch) for epoch in entries["history"]] == 3 * [
        {"epoch", "loss", "accuracy", "held_out_loss", "held_out_accuracy"}]
    assert entries["command"] in page.words and entries["command"] == (
        f"cd {tmp_path} && python -m scene.main train test FCNN --epochs 3 --precision float32 --seed 0")

    (tmp_path / "report_FCNN.html").unlink()
    none = main_job("train", "test", "FCNN", "--load-model", "model_FCNN", "--no-report", cwd=tmp_path)
    assert none.returncode == 0 and "report" not in none.stdout
    assert not (tmp_path / "report_FCNN.html").exists()
    tested = main_job("train", "test", "FCNN", "--load-model", "model_FCNN", cwd=tmp_path)
    assert tested.returncode == 0 and 'id="learning"' not in (tmp_path / "report_FCNN.html").read_text()
    shutil.rmtree(tmp_path / "train")


def test_a_report_that_cannot_be_written_is_noticed_before_training(tmp_path):
    make_photos(tmp_path / "train")
    make_photos(tmp_path / "test")
    (tmp_path / "report_FCNN.html").mkdir()
    refused = main_job("train", "test", "FCNN", "--epochs", 1, cwd=tmp_path)
    assert refused.returncode == 2 and "report_FCNN.html is a folder" in refused.stderr
    assert not (tmp_path / "model_FCNN").exists()


