"""The page of scene.serve in a real browser: headless Chromium, with real photos, a server and its answers."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from scene.answer.class_map import class_maps
from scene.answer.classifier import Classifier
from scene.photos.decode import ORIENTATION, decode
from scene.show import pictures
from tests.asking import CLASSES, OCEAN, Server, calibrated, model_files


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """{mode: path of a model file}. The FCNN has a calibration."""
    folder = tmp_path_factory.mktemp("models")
    modes = model_files(folder)
    (folder / "model_FCNN").write_bytes(calibrated("FCNN"))
    return {mode: folder / f"model_{mode}" for mode in modes}


@pytest.fixture(scope="module")
def server(paths, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), "--model", *paths.values())
    yield server
    assert server.stop() == 143
    assert server.errors.read_text() == ""
    assert not [line for line in server.lines() if "error" in line]


@pytest.fixture
def opened(browser, server):
    """opened(width, scheme) -> the page. In the end it has said nothing and asked for nothing elsewhere."""
    said = []
    contexts = []
    home = f"http://localhost:{server.port}/"

    def open_page(width=1280, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: request.url.startswith((home, "data:", f"blob:{home}"))
                or said.append(request.url))
        page.goto(home)
        page.locator("#known:not(:empty)").wait_for()
        return page

    yield open_page
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert [line for line in said if not re.search(r"status of 4\d\d|net::ERR_FAILED", line)] == []


def file(data, name="photo.jpg", kind="image/jpeg"):
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page, data, **more):
    """Chooses a photo, and waits for the reply."""
    page.set_input_files("#file", file(data, **more))
    page.locator("#waiting").wait_for(state="hidden")
    page.locator("#answer:not([hidden]), #trouble:not([hidden])").wait_for()


def jpeg(width, height, **more):
    """A photo of coloured stripes, bright above and dark below."""
    rows = np.linspace(255, 0, height)[:, None, None] * np.array([1, 0.8, 0.6])
    out = io.BytesIO()
    pixels = np.broadcast_to(rows, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=95, **more)
    return out.getvalue()


def sent(page, act):
    """The photo that the page sends while `act()` runs, and the answer."""
    with page.expect_response(lambda response: response.url.endswith("/get_scene")) as info:
        act()
    body = json.loads(info.value.request.post_data)
    return base64.b64decode(body["imageBase64"]), info.value.json()


def odds(page):
    return dict(page.evaluate("[...document.querySelectorAll('#odds li')].map(li => [li.children[0].textContent, "
                              "li.children[2].textContent])"))


def test_the_answer_to_a_chosen_photo(opened, paths):
    page = opened()
    model = Classifier.open(paths["CNN"])
    choose(page, OCEAN)
    expected = model.classify(OCEAN)
    assert page.inner_text("#scene") == next(iter(expected))
    assert odds(page) == {name: f"{100 * p:.0f}\u00a0%" for name, p in expected.items()}
    widths = page.evaluate("[...document.querySelectorAll('#odds rect.good')].map(bar => +bar.getAttribute('width'))")
    assert widths == pytest.approx([100 * p for p in expected.values()], abs=1e-3)
    assert re.fullmatch(r"Photo decoded in [\d.]+ ms, answered in [\d.]+ ms, mapped in [\d.]+ ms. "
                        rf"Model CNN {model.name}.", page.inner_text("#times"))
    assert page.locator("#trouble").is_hidden() and page.locator("#reason").is_hidden()
    assert page.evaluate("document.getElementById('photo').naturalWidth") == Image.open(io.BytesIO(OCEAN)).width


def test_the_class_map_lies_over_the_photo(opened, paths):
    """In the report's colours, at the places that the library says, and as strongly as the slider says."""
    page = opened()
    choose(page, OCEAN)
    model = Classifier.open(paths["CNN"])
    pixels = decode(OCEAN, model.image_size)
    found, = class_maps(model, pixels, [int(model.probabilities(pixels[None]).argmax())])
    assert f"{found.score:.2f}, exactly" in page.inner_text("#explained").replace("\u2212", "-")
    assert page.locator("#legend").is_visible()

    def at(share_y, share_x):
        return page.evaluate("""([y, x]) => {
            const map = document.getElementById("map");
            const context = map.getContext("2d");
            return [...context.getImageData(Math.floor(x * map.width), Math.floor(y * map.height), 1, 1).data];
        }""", [share_y, share_x])

    def slide(value):
        page.locator("#strength").fill(str(value))

    slide(100)
    y, x = np.unravel_index(abs(found.places).argmax(), found.places.shape)
    h, w = found.places.shape
    *colour, alpha = at((y + 0.5) / h, (x + 0.5) / w)
    assert alpha > 100
    wanted = pictures.FOR if found.places[y, x] > 0 else pictures.AGAINST
    assert colour == pytest.approx(wanted.tolist(), abs=40)
    slide(0)
    assert at((y + 0.5) / h, (x + 0.5) / w)[3] == 0
    css = (pictures.__file__.replace("pictures.py", "page.css"))
    with open(css, encoding="utf-8") as text:
        stated = re.findall(r"--map-\w+: (\d+) (\d+) (\d+);", text.read())
    assert [list(map(int, each)) for each in stated] == [pictures.FOR.tolist(), pictures.AGAINST.tolist()]


def test_another_network_says_when_it_is_not_sure(opened, paths):
    page = opened()
    choose(page, OCEAN)
    with page.expect_response(lambda response: response.url.endswith("/get_scene")):
        page.get_by_label("FCNN").check()
    page.wait_for_function("document.getElementById('times').textContent.includes('FCNN')")
    expected = Classifier.open(paths["FCNN"]).answer(OCEAN)
    assert expected["sure"] is False, "the test needs an answer that is not sure"
    first, second = list(expected["probabilities"])[:2]
    assert page.inner_text("#verdict") == "Not sure"
    assert page.inner_text("#scene") == f"{first}, or {second}?"
    assert page.inner_text("#reason").endswith(".")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_other_ways_to_give_a_photo(way, opened, paths):
    page = opened()
    page.evaluate("""([way, text]) => {
        const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "photo.jpg", {type: "image/jpeg"}));
        const more = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(way === "drop" ? new DragEvent("drop", {dataTransfer: data, ...more})
            : new ClipboardEvent("paste", {clipboardData: data, ...more}));
    }""", [way, base64.b64encode(OCEAN).decode()])
    page.locator("#answer").wait_for()
    assert page.inner_text("#scene") == next(iter(Classifier.open(paths["CNN"]).classify(OCEAN)))


def test_by_keyboard_alone(opened):
    """The first control after the links opens the browser's file dialog with the space bar."""
    page = opened()
    page.locator("nav a").last.focus()
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as info:
        page.keyboard.press("Space")
    info.value.set_files(file(OCEAN))
    page.locator("#answer").wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "strength":
            break
    before = page.evaluate("document.activeElement.value")
    page.keyboard.press("ArrowRight")
    assert int(page.evaluate("document.activeElement.value")) == int(before) + 1


def test_the_camera(opened, paths):
    page = opened(permissions=["camera"])
    assert page.locator("#webcam").is_visible()
    page.evaluate("""() => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [320, 240];
        const context = canvas.getContext("2d");
        setInterval(() => context.fillRect(0, 0, 320, 120), 20);
        navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(25);
    }""")
    page.click("#webcam")
    page.wait_for_function("document.getElementById('video').videoWidth > 0")
    photo, answer = sent(page, lambda: page.click("#shoot"))
    assert Image.open(io.BytesIO(photo)).size == (320, 240) and answer["scene"] in CLASSES
    assert page.locator("#camera").is_hidden() and page.evaluate("document.getElementById('video').srcObject") is None
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotAllowedError"); };
    }""")
    page.click("#webcam")
    assert page.inner_text("#trouble") == "The browser may not use the camera. Allow it, then try again."


def test_a_phones_camera_is_offered_on_a_phone(opened):
    page = opened(390, has_touch=True, is_mobile=True)
    assert page.locator("#phone").is_visible()
    assert page.locator("#file-phone").get_attribute("capture") == "environment"
    assert opened().locator("#phone").is_hidden()


@pytest.mark.parametrize("turn, upright", [(1, (2048, 1365)), (6, (1365, 2048))])
def test_a_photo_of_24_megapixels_is_shrunk_and_turned(turn, upright, opened):
    page = opened()
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    photo, answer = sent(page, lambda: choose(page, jpeg(6000, 4000, exif=exif)))
    image = Image.open(io.BytesIO(photo))
    assert image.size == upright and image.getexif().get(ORIENTATION, 1) == 1 and len(photo) < 1_000_000
    light = np.asarray(image.convert("L")).astype(int)
    assert (light[0].mean() - light[-1].mean() > 150) == (turn == 1)
    assert (light[:, -1].mean() - light[:, 0].mean() > 150) == (turn == 6)     # the top is now at the right
    assert answer["scene"] in CLASSES


def test_a_small_photo_goes_as_it_is(opened):
    page = opened()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = jpeg(300, 200, exif=exif)
    assert sent(page, lambda: choose(page, data))[0] == data


def test_a_format_that_only_the_browser_reads_goes_as_jpeg(opened):
    page = opened()
    out = io.BytesIO()
    Image.open(io.BytesIO(OCEAN)).save(out, "BMP")
    photo, _ = sent(page, lambda: choose(page, out.getvalue(), name="a.bmp", kind="image/bmp"))
    assert photo[:3] == b"\xff\xd8\xff" and page.locator("#answer").is_visible()
    transparent = Image.new("RGBA", (2600, 2500), (0, 0, 0, 0))
    out = io.BytesIO()
    transparent.save(out, "PNG")
    photo, _ = sent(page, lambda: choose(page, out.getvalue(), name="a.png", kind="image/png"))
    assert Image.open(io.BytesIO(photo)).convert("L").getextrema() == (255, 255)        # on white, as in decode.py


NO_PHOTOS = {
    "cut off": (OCEAN[:len(OCEAN) // 2], "The photo is truncated: the end of the JPEG is missing: send the whole, "
                "undamaged file."),
    "text": (b"hello", "This is not a JPEG, PNG or WebP photo."),
    "empty": (b"", "The photo is empty: send a JPEG or PNG."),
    "large and cut off": (jpeg(4000, 3000)[:-2000], "The photo is truncated: "),
}


@pytest.mark.parametrize("name", NO_PHOTOS)
def test_what_is_no_photo_is_answered_with_the_endpoints_sentence(name, opened):
    page = opened()
    choose(page, OCEAN)
    data, sentence = NO_PHOTOS[name]
    _, answer = sent(page, lambda: choose(page, data))
    assert page.inner_text("#trouble") == answer["error"]["message"] and sentence in answer["error"]["message"]
    assert page.locator("#answer").is_hidden() and page.locator("#legend").is_hidden()
    choose(page, OCEAN)
    assert page.locator("#trouble").is_hidden() and page.locator("#answer").is_visible()


def test_nothing_in_an_answer_becomes_markup(opened):
    page = opened()
    nasty = '<img src=x onerror=alert(1)>"&amp;'
    answer = {"scene": nasty, "probabilities": {nasty: 0.9, "b": 0.1}, "mode": "CNN", "model": nasty, "requestId": "1",
              "map": {"class": nasty, "exact": True, "score": 1, "bias": 0, "places": [[1, -1], [0, 1]]}}
    page.route("**/get_scene", lambda route: route.fulfill(json=answer))
    choose(page, OCEAN)
    assert page.inner_text("#scene") == nasty and nasty in page.inner_text("#explained")
    assert page.evaluate("document.images.length") == 1
    page.route("**/get_scene", lambda route: route.fulfill(status=400, json={"error": {"code": "x", "message": nasty}}))
    choose(page, OCEAN)
    assert page.inner_text("#trouble") == nasty and page.evaluate("document.images.length") == 1


def test_a_server_that_has_gone(opened):
    page = opened()
    page.route("**/get_scene", lambda route: route.abort())
    page.set_input_files("#file", file(OCEAN))
    page.locator("#trouble").wait_for()
    assert page.inner_text("#trouble") == \
        "The server does not answer. Check that scene.serve is still running, then try again."


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(width, scheme, opened):
    page = opened(width, scheme)
    choose(page, jpeg(300, 900))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    paper, ink = page.evaluate("""() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(colour => +colour.match(/\\d+/)[0]);
    }""")
    assert paper > 200 > 60 > ink if scheme == "light" else paper < 60 < 200 < ink
    for control in page.locator("button:visible, .button:visible").all():
        assert control.bounding_box()["height"] >= 32
