"""Shared by all tests: Hypothesis's settings, fixtures for several files, and the gate.

With SCENE_GATE=1 in the environment, a skipped test is a failure. With SCENE_SHARE=FOLDER, several runs
of pytest share the tests: each file is tested by the run that comes to it first.
"""

import functools
import os
import signal
import subprocess
import tempfile
import zipfile
import zlib

import pytest
import torch
from hypothesis import settings

from scene.answer import modelfile
from scene.errors import UserError
from scene.models import MODES
from tests import runtime, screenshot

# Never the user's own cache of decoded photos, and no line of output about a new one.
CACHE = tempfile.TemporaryDirectory()
os.environ["SCENE_CACHE"] = CACHE.name
os.mkdir(os.path.join(CACHE.name, "scene"), 0o700)
torch.set_num_threads(1)        # as in training: more threads only slow down tiny operations
# In the background Ctrl-C would be ignored, by the tests and by the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("scene", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("scene")


# The gate


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return refuse_skip((yield))


def refuse_skip(report):
    """The report of a test or a module; a failure if it was skipped and SCENE_GATE=1 is set."""
    expected_to_fail = hasattr(report, "wasxfail")              # pytest reports these as skipped, too
    if report.skipped and not expected_to_fail and os.environ.get("SCENE_GATE") == "1":
        path, line, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped, which SCENE_GATE=1 does not allow: " \
            f"{reason.removeprefix('Skipped: ')}"
    return report


# Several runs at once

SHARE = os.environ.pop("SCENE_SHARE", None)         # popped, since it is not for the runs that tests start


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    """With SCENE_SHARE: leaves out the tests of a file that another run has claimed."""
    return True if SHARE and not is_mine(item.path.name) else None


@functools.cache
def is_mine(name):
    """Whether this run is the first to create a file of this name in SHARE."""
    try:
        open(os.path.join(SHARE, name), "x").close()
    except FileExistsError:
        return False
    return True


# A browser


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install -e '.[browser]'")
    chromium = screenshot.chromium()
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=screenshot.ARGUMENTS)
        yield browser
        browser.close()


# Models, and the function in AWS Lambda


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with an untrained model of the default size for each mode."""
    folder = tmp_path_factory.mktemp("models")
    for mode, entry in MODES.items():
        network = entry.network(3).start(torch.Generator().manual_seed(0))
        card = modelfile.make_card(network, mode, ["grass", "ocean", "road"])
        modelfile.save(folder / f"model_{mode}", network, card)
    return folder


@pytest.fixture(scope="session")
def python313():
    """The path of a Python 3.13, the version that Lambda runs."""
    from build import find_python  # here, not above: few tests need it

    try:
        return find_python()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, models, python313):
    """lambda/build.py's output for this machine's architecture, unpacked in code/ and layer/ as in Lambda."""
    folder = tmp_path_factory.mktemp("bundle")
    result = runtime.build(folder, models)
    if "pip could not fetch" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    zipfile.ZipFile(folder / "get_scene.zip").extractall(folder / "code")
    zipfile.ZipFile(next(folder.glob("layer-*.zip"))).extractall(folder / "layer")
    return folder


@pytest.fixture(scope="session")
def client(request, python313):
    """A folder with AWS's runtime client, kept for later runs of the tests."""
    versions = zlib.crc32((runtime.ROOT / "constraints.txt").read_bytes())
    folder = request.config.cache.mkdir("lambda-runtime") / f"{versions:08x}"
    if not folder.exists():
        try:
            runtime.install_client(python313, folder)
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1]
            pytest.skip(f"the runtime client cannot be installed: {last}")
    return folder


@pytest.fixture(scope="session")
def s3(models):
    """The URL of an S3 server whose bucket "models" holds the models, and an object that is none."""
    pytest.importorskip("moto.server", reason="needs pip install -e '.[cloud]'")
    server, url = runtime.serve_s3(runtime.read_files(models) | {"no_model": b"<html>"})
    yield url
    server.stop()


@pytest.fixture(scope="session")
def make(python313, bundle, client, tmp_path_factory):
    """make(AWS_ENDPOINT_URL_S3=…) -> a runtime.Function from the built zips."""
    folder = tmp_path_factory.mktemp("logs")

    def make(code=bundle / "code", timeout=30, **environment):
        log = folder / f"{len(list(folder.iterdir()))}.log"
        log.touch()
        environment = {"SCENE_BUCKET": "models", "OMP_NUM_THREADS": "1"} | environment
        path = [bundle / "layer/python", client]
        return runtime.Function(python313, code, path, environment, log, timeout=timeout)

    return make
