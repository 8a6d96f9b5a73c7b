"""The page of scene.serve in a real browser: headless Chromium, with a real server and its answers."""

import base64
import inspect
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from scene.answer.class_map import class_maps
from scene.answer.classifier import Classifier
from scene.models import CNN
from scene.nn.fold import fold
from scene.nn.linear import Linear
from scene.nn.loss import CrossEntropy
from scene.photos.decode import ORIENTATION, decode
from scene.show import inside, page, pictures
from tests.asking import CLASSES, OCEAN, Server, calibrated, model_file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{mode: path of a model file}. The CNN is narrow, and the FCNN has a calibration."""
    folder = tmp_path_factory.mktemp("models")
    model_file(CNN(3, 16, (4, 6, 8)).start(torch.Generator().manual_seed(0)), "CNN", folder / "model_CNN")
    (folder / "model_FCNN").write_bytes(calibrated("FCNN"))
    return {mode: folder / f"model_{mode}" for mode in ("CNN", "FCNN")}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), "--model", *models.values())
    yield server
    assert server.stop() == 143
    assert server.errors.read_text() == ""
    assert not [line for line in server.lines() if "error" in line]


@pytest.fixture(scope="module")
def open_page(browser, server):
    """open_page(width, scheme) -> the page, and no cookies in the end. It says nothing on the console.

    Except that an answer was an error, which Chromium says of each. And it asks for nothing elsewhere.
    """
    said = []
    contexts = []
    home = f"http://localhost:{server.port}/"

    def open_page(width=1280, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme,
                                      **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: request.url.startswith((home, "data:", f"blob:{home}"))
                or said.append(request.url))
        page.goto(home)
        wait_for(page)
        return page

    yield open_page
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert [line for line in said if not re.search(r"status of 4\d\d|net::ERR_FAILED", line)] == []


@pytest.fixture(scope="module")
def desk(open_page):
    """The page on a desktop, for tests that leave it as they find it."""
    return open_page()


def wait_for(page):
    """Until the page is filled and painted: before that, Chromium drops the keys that are pressed."""
    page.locator("#known:not(:empty)").wait_for()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def file(data, name="photo.jpg", kind="image/jpeg"):
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page, data, **more):
    """Chooses a photo, and waits for the reply. Returns the photo that the page sent, and the answer."""
    return sent(page, lambda: page.set_input_files("#file", file(data, **more)))


def sent(page, act):
    """The photo that the page sends after `act()`, and the answer, which it shows by now."""
    with page.expect_response(lambda response: response.url.endswith("/get_scene")) as info:
        act()
    page.locator("#answer:not([hidden]), #trouble:not([hidden])").wait_for()
    body = json.loads(info.value.request.post_data)
    return base64.b64decode(body["imageBase64"]), info.value.json()


def ask_the(page, mode):
    """Chooses a network, and waits for its answer to the photo."""
    if not page.get_by_label(mode, exact=True).is_checked():
        sent(page, lambda: page.get_by_label(mode, exact=True).check())
        page.locator("#times", has_text=f"Model {mode}").wait_for()


def picture(size, form="JPEG", exif=None, color=None):
    """A picture as a file: bright above and dark below, or of one colour."""
    width, height = size
    rows = np.linspace(255, 0, height)[:, None, None] * np.array([1, 0.8, 0.6])
    image = Image.new("RGBA", size, color) if color else \
        Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))
    out = io.BytesIO()
    image.save(out, form, exif=exif or Image.Exif())
    return out.getvalue()


# The answer


def test_the_answer_to_a_chosen_photo(desk, models):
    model = Classifier.open(models["CNN"])
    assert choose(desk, OCEAN)[0] == OCEAN
    expected = model.classify(OCEAN)
    assert desk.inner_text("#scene") == next(iter(expected)) and desk.locator("#trouble").is_hidden()
    shown = desk.evaluate("""[...document.querySelectorAll("#odds li")].map(li => [
        li.children[0].textContent, li.children[2].textContent,
        +li.querySelector("rect.good").getAttribute("width")])""")
    assert [name for name, _, _ in shown] == list(expected)
    for (_, text, width), p in zip(shown, expected.values(), strict=True):
        assert text == f"{100 * p:.0f}\u00a0%" and width == pytest.approx(100 * p, abs=1e-3)
    assert re.fullmatch(r"Photo decoded in [\d.]+ ms, answered in [\d.]+ ms, mapped in [\d.]+ ms. "
                        rf"Model CNN {model.name}.", desk.inner_text("#times"))


def test_the_class_map_lies_over_the_photo(desk, models):
    """In the report's colours, where the library has it, and as strongly as the slider says."""
    choose(desk, OCEAN)
    model = Classifier.open(models["CNN"])
    pixels = decode(OCEAN, model.image_size)
    found, = class_maps(model, pixels, [int(model.probabilities(pixels[None]).argmax())])
    assert f"{found.score:.2f}, exactly" in desk.inner_text("#explained")
    y, x = np.unravel_index(abs(found.places).argmax(), found.places.shape)
    h, w = found.places.shape

    def strongest(slider):
        """The colour and opacity at the strongest place."""
        desk.locator("#strength").fill(str(slider))
        return desk.evaluate("""([y, x]) => {
            const map = document.getElementById("map");
            const copy = document.createElement("canvas");
            [copy.width, copy.height] = [map.width, map.height];
            const context = copy.getContext("2d");
            context.drawImage(map, 0, 0);
            return [...context.getImageData(x * copy.width, y * copy.height, 1, 1).data];
        }""", [(y + 0.5) / h, (x + 0.5) / w])

    *colour, alpha = strongest(100)
    wanted = pictures.FOR if found.places[y, x] > 0 else pictures.AGAINST
    assert colour == pytest.approx(wanted.tolist(), abs=40) and alpha > 100
    assert strongest(0)[3] == 0
    stated = re.findall(r"--map-\w+: (\d+) (\d+) (\d+);", page.read("page.css").decode())
    assert [list(map(int, each)) for each in stated] == [pictures.FOR.tolist(), pictures.AGAINST.tolist()]


def test_another_network_says_that_it_is_not_sure(desk, models):
    choose(desk, OCEAN)
    ask_the(desk, "FCNN")
    expected = Classifier.open(models["FCNN"]).answer(OCEAN)
    assert expected["sure"] is False, "the test needs an answer that is not sure"
    first, second = list(expected["probabilities"])[:2]
    assert (desk.inner_text("#verdict"), desk.inner_text("#scene")) == ("Not sure", f"{first}, or {second}?")
    assert desk.inner_text("#reason").endswith(".")
    ask_the(desk, "CNN")
    assert "likely" in desk.inner_text("#verdict") and desk.locator("#reason").is_hidden()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_other_ways_to_give_a_photo(way, desk):
    photo, _ = sent(desk, lambda: desk.evaluate("""([way, text]) => {
        const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "photo.jpg", {type: "image/jpeg"}));
        const more = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(way === "drop" ? new DragEvent("drop", {dataTransfer: data, ...more})
            : new ClipboardEvent("paste", {clipboardData: data, ...more}));
    }""", [way, base64.b64encode(OCEAN).decode()]))
    assert photo == OCEAN and desk.locator("#answer").is_visible()


def test_by_keyboard_alone(desk):
    """The first control after the links opens the browser's file dialog, and the slider takes arrow keys."""
    desk.reload()
    wait_for(desk)
    desk.locator("nav a").last.focus()
    desk.keyboard.press("Tab")
    assert desk.evaluate("document.activeElement.type") == "file"
    with desk.expect_file_chooser() as info:
        desk.keyboard.press("Space")
    sent(desk, lambda: info.value.set_files(file(OCEAN)))
    for _ in range(20):
        if desk.evaluate("document.activeElement.id") == "strength":
            break
        desk.keyboard.press("Tab")
    before = int(desk.evaluate("document.activeElement.value"))
    desk.keyboard.press("ArrowRight")
    assert int(desk.evaluate("document.activeElement.value")) == before + 1


def test_the_camera(open_page):
    """The stream is a canvas's: what Chromium's own false camera shows is not known."""
    camera = open_page(permissions=["camera"])
    camera.evaluate("""() => {
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [320, 240];
        const context = canvas.getContext("2d");
        setInterval(() => context.fillRect(0, 0, 320, 120), 20);
        navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(25);
    }""")
    camera.click("#webcam")
    camera.locator("#shoot").wait_for()
    camera.evaluate("""() => new Promise(resolve => {
        const video = document.getElementById("video");
        video.videoWidth ? resolve() : video.addEventListener("loadeddata", resolve);
    })""")
    photo, answer = sent(camera, lambda: camera.click("#shoot"))
    assert Image.open(io.BytesIO(photo)).size == (320, 240) and answer["scene"] in CLASSES
    assert camera.locator("#camera").is_hidden()
    assert camera.evaluate("document.getElementById('video').srcObject") is None
    camera.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotAllowedError"); };
    }""")
    camera.click("#webcam")
    camera.locator("#trouble:not([hidden])").wait_for()
    said = "The browser may not use the camera. Allow it, then try again."
    assert camera.inner_text("#trouble") == said


# What is sent


def test_a_photo_of_24_megapixels_is_shrunk_and_turned_upright(desk):
    exif = Image.Exif()
    exif[ORIENTATION] = 6                       # to be turned clockwise: its top is then at the right
    photo, answer = choose(desk, picture((6000, 4000), exif=exif))
    image = Image.open(io.BytesIO(photo))
    assert image.size == (1365, 2048) and image.getexif().get(ORIENTATION, 1) == 1 and len(photo) < 1_000_000
    light = np.asarray(image.convert("L")).astype(int)
    assert light[:, -1].mean() - light[:, 0].mean() > 150
    assert answer["scene"] in CLASSES


def test_a_small_photo_goes_as_it_is_turned_or_not(desk):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for data in picture((300, 200), exif=exif), picture((30, 20), "PNG"), picture((300, 200), "WebP"):
        assert choose(desk, data, kind=f"image/{Image.open(io.BytesIO(data)).format.lower()}")[0] == data


@pytest.mark.parametrize("form, color, shade", [("BMP", "#808080", 128), ("GIF", "#00000000", 255)])
def test_a_format_that_only_the_browser_reads_goes_as_jpeg(form, color, shade, desk):
    """On white, as in decode.py, where it is transparent."""
    data = picture((64, 48), form, color=color)
    photo, _ = choose(desk, data, name=f"a.{form}", kind=f"image/{form.lower()}")
    image = Image.open(io.BytesIO(photo))
    assert (image.format, image.size) == ("JPEG", (64, 48))
    assert image.convert("L").getextrema() == pytest.approx((shade, shade), abs=1)


NO_PHOTOS = {
    "cut off": (OCEAN[:len(OCEAN) // 2], "the end of the JPEG is missing"),
    "text": (b"hello", "not a JPEG, PNG or WebP photo"),
    "empty": (b"", "The photo is empty"),
    "large and cut off": (picture((3000, 2400))[:-2000], "the end of the JPEG is missing"),
}


@pytest.mark.parametrize("name", NO_PHOTOS)
def test_what_is_no_photo_is_answered_with_the_endpoints_sentence(name, desk):
    choose(desk, OCEAN)
    data, words = NO_PHOTOS[name]
    photo, answer = choose(desk, data)
    assert photo == data and words in answer["error"]["message"]
    assert desk.inner_text("#trouble") == answer["error"]["message"]
    assert desk.locator("#answer").is_hidden() and desk.locator("#legend").is_hidden()
    assert desk.locator("#inside button").is_disabled()
    choose(desk, OCEAN)
    assert desk.locator("#trouble").is_hidden() and desk.locator("#answer").is_visible()


def test_classes_with_numbers_for_names_are_in_the_order_of_their_probabilities(desk):
    """An object of JavaScript would have 3 and 7 first."""
    ranked = desk.evaluate("import('/elements.js').then(it => it.rank({sea: 0.7, 7: 0.2, 3: 0.1}))")
    assert ranked == [["sea", 0.7], ["7", 0.2], ["3", 0.1]]


def test_what_cannot_be_read_is_said(desk):
    """A folder that is dropped, or a file that has gone: the browser's own reader fails."""
    read = "FileReader.prototype.readAsDataURL"
    desk.evaluate(f"self.kept = {read}; {read} = () => {{ throw new Error() }}; 0")
    desk.locator("input[type=file]").first.set_input_files(
        {"name": "gone.jpg", "mimeType": "image/jpeg", "buffer": b"gone"})
    desk.locator("#trouble", has_text="This cannot be read: choose a photo file.").wait_for()
    assert desk.locator("#waiting").is_hidden()
    desk.evaluate(f"{read} = self.kept; 0")


def test_nothing_in_an_answer_becomes_markup(desk):
    nasty = '<img src=x onerror=alert(1)>"&amp;'
    answer = {"scene": nasty, "probabilities": {nasty: 0.9, "b": 0.1}, "mode": "CNN", "model": nasty,
              "requestId": "1", "map": {"class": nasty, "exact": True, "score": 1, "bias": 0,
                                        "places": [[1, -1], [0, 1]]}}
    images = desk.evaluate("document.images.length")
    desk.route("**/get_scene", lambda route: route.fulfill(json=answer))
    choose(desk, OCEAN)
    assert desk.inner_text("#scene") == nasty and nasty in desk.inner_text("#explained")
    desk.unroute("**/get_scene")
    refusal = {"error": {"code": "x", "message": nasty}}
    desk.route("**/get_scene", lambda route: route.fulfill(status=400, json=refusal))
    choose(desk, OCEAN)
    assert desk.inner_text("#trouble") == nasty and desk.evaluate("document.images.length") == images
    desk.unroute("**/get_scene")


def test_a_server_that_has_gone(desk):
    desk.route("**/get_scene", lambda route: route.abort())
    desk.set_input_files("#file", file(OCEAN))
    desk.locator("#trouble:not([hidden])").wait_for()
    said = "The server does not answer. Check that scene.serve is still running, then try again."
    assert desk.inner_text("#trouble") == said
    desk.unroute("**/get_scene")


# Look inside


def run(page, task):
    """Presses a section's button, and waits for the result."""
    page.locator(f"#{task} > .buttons .main").click()
    page.locator(f"#{task} .result > *").first.wait_for(timeout=60_000)


def stages(page, task):
    """The stages' buttons."""
    return page.locator(f"#{task} .rail button")


def facts(page, task):
    """{name: number} of the stage that is shown, unrounded."""
    return page.evaluate(f"""Object.fromEntries([...document.querySelectorAll("#{task} .facts div")].map(
        each => [each.children[0].textContent, +each.children[1].dataset.value]))""")


@pytest.mark.parametrize("mode", ["CNN", "FCNN"])
def test_a_layers_output_and_its_code(mode, desk, models):
    choose(desk, OCEAN)
    ask_the(desk, mode)
    run(desk, "inside")
    model = Classifier.open(models[mode])
    network = fold(model.network)
    x = decode(OCEAN, model.image_size)[None]
    for layer in network.layers[:3]:
        x = layer.forward(x)
    stages(desk, "inside").nth(2).click()
    name = {"CNN": "MaxPool2d", "FCNN": "Linear"}[mode]
    assert desk.inner_text("#inside h3 span >> nth=0") == name
    assert facts(desk, "inside")["largest"] == pytest.approx(float(x.max()), rel=1e-6)
    shape = "×".join(map(str, x.shape[1:]))
    assert f"→ {shape} · " in desk.inner_text("#inside .stage .note")
    code = desk.inner_text("#inside .code code").splitlines()
    source, line = inspect.getsourcelines(type(layer).forward)
    assert [text.strip() for text in code] == [text.strip() for text in source]
    assert desk.inner_text("#inside .code figcaption") == f"{where(layer)}, line {line}"
    assert desk.inner_text("#inside .formula").startswith(type(layer).__doc__.splitlines()[0])
    shown = desk.locator("#inside .gallery.y img")
    if mode == "CNN":                           # each channel is a picture, the most active first
        activity = np.sqrt((x[0] ** 2).mean((0, 1)))
        assert shown.first.get_attribute("alt").startswith(f"channel {activity.argmax()},")
        assert shown.count() == min(inside.MOST, x.shape[3])
    weights = desk.locator("#inside .gallery.w img")
    assert weights.count() == (inside.MOST if mode == "FCNN" else 0)
    if mode == "FCNN":                          # what the first unit looks for, in its own colours
        w = network.layers[2].w[x[0].argmax()].reshape(16, 16, 3)
        levels = np.round(127.5 + 127.5 * w / abs(w).max())
        assert abs(pixels_of(weights.first) - levels).max() <= 1


def where(layer):
    """The file of a layer, as the page names it."""
    return f"scene/{type(layer).__module__.removeprefix('scene.').replace('.', '/')}.py"


def pixels_of(image):
    """The pixels of an <img>."""
    data = base64.b64decode(image.get_attribute("src").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_numbers_of_a_training_step_are_the_librarys(desk, models):
    """And stages are walked through by keyboard."""
    choose(desk, OCEAN)
    ask_the(desk, "CNN")
    desk.locator("#step select").select_option(CLASSES[2])
    run(desk, "step")
    loss, network = step_by_hand(Classifier.open(models["CNN"]), OCEAN, 2)
    kinds = desk.evaluate("""[...document.querySelectorAll("#step .rail button")].map(
        each => each.classList[0])""")
    layers = kinds.index("loss")
    assert kinds == ["forward"] * layers + ["loss"] + ["backward"] * layers + ["step"]
    stages(desk, "step").nth(layers).click()
    assert facts(desk, "step")["L"] == pytest.approx(float(loss.forward_value), rel=1e-5)
    right = desk.locator("#step .losses .chosen [data-value]").get_attribute("data-value")
    assert float(right) == pytest.approx(float(loss.backward()[0, 2]), rel=1e-4)
    desk.keyboard.press("ArrowDown")
    last = network.layers[-1]
    assert isinstance(last, Linear) and desk.inner_text("#step .tag") == "backward"
    norms = facts(desk, "step")
    assert norms["‖dw‖"] == pytest.approx(float(last.dw.norm()), rel=1e-4)
    assert norms["‖db‖"] == pytest.approx(float(last.db.norm()), rel=1e-4)
    assert desk.inner_text("#step .code code").splitlines()[0].strip() == "def backward(self, dy):"
    stages(desk, "step").nth(-2).click()
    desk.locator("#step .stages button", has_text="Next").click()
    assert facts(desk, "step")["‖g‖"] == pytest.approx(float(network.grads.norm()), rel=1e-4)
    losses = desk.evaluate("""[...document.querySelectorAll("#step .rates [data-value]")].map(
        each => +each.dataset.value)""")
    assert losses[0] == pytest.approx(float(loss.forward_value), rel=1e-5)
    assert losses[1] < losses[0], "a small step downhill makes the loss smaller"
    assert desk.locator("#step .stages button", has_text="Next").is_disabled()


def step_by_hand(model, photo, label):
    """The loss and the network after forward and backward, without scene.show."""
    network = fold(model.network)
    params, state = torch.from_numpy(network.params), torch.from_numpy(network.state)
    network.place(params, state, torch.zeros_like(params))
    x = torch.from_numpy(decode(photo, model.image_size)[None])
    loss = CrossEntropy()
    loss.forward_value = loss.forward(network.forward(x, training=True), torch.tensor([label]))
    network.backward(loss.backward())
    return loss, network


def test_a_planted_bug_turns_the_check_red(desk):
    choose(desk, OCEAN)
    ask_the(desk, "CNN")
    run(desk, "bug")
    assert desk.locator("#bug .check .right").count() > 10 and desk.locator("#bug .check .wrong").count() == 0
    assert "agree" in desk.inner_text("#bug .verdict")
    desk.locator("#bug input[value=residual-shortcut]").check()
    desk.locator("#bug .check .wrong").first.wait_for(timeout=60_000)
    assert "look at the first red one" in desk.inner_text("#bug .verdict")
    assert "def no_shortcut" in desk.inner_text("#bug .compared")
    desk.locator("#bug input[name=bug]").first.check()
    desk.locator("#bug .check .wrong").first.wait_for(state="detached", timeout=60_000)
    assert desk.locator("#bug .compared").count() == 0


# Its looks


@pytest.mark.parametrize("width, scheme", [(360, "dark"), (800, "light")])
def test_the_page_fits_its_window(width, scheme, open_page):
    """On a phone, a photo can be taken with its own camera."""
    small = open_page(width, scheme, has_touch=width == 360, is_mobile=width == 360)
    phone = small.locator("#phone")
    assert phone.is_visible() == (width == 360)
    assert small.locator("#file-phone").get_attribute("capture") == "environment"
    choose(small, picture((300, 900)))
    if width == 360:
        run(small, "inside")
        stages(small, "inside").nth(1).click()
    assert small.evaluate("document.documentElement.scrollWidth") == width
    paper, ink = small.evaluate("""() => {
        const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color].map(colour => +colour.match(/\\d+/)[0]);
    }""")
    assert paper > 200 > 60 > ink if scheme == "light" else paper < 60 < 200 < ink
    for control in small.locator("button:visible, .button:visible").all():
        assert control.bounding_box()["height"] >= 32
