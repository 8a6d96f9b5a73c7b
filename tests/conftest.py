"""What all tests share: 200 examples for each property, the same ones every time; and what is built once for several files."""

import signal
import zipfile

import pytest
import torch
from hypothesis import settings

from scene import modelfile
from scene.command import UserError
from scene.models import MODES
from tests import runtime

torch.set_num_threads(1)        # as in training: a thread each for tiny operations only gets in the way
signal.signal(signal.SIGINT, signal.default_int_handler)    # tests in the background would ignore Ctrl-C, and so would what they start
settings.register_profile("scene", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("scene")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with model_FCNN and model_CNN, of the usual size, that never learned anything."""
    folder = tmp_path_factory.mktemp("models")
    for mode, kind in MODES.items():
        network = kind(3).start(torch.Generator().manual_seed(0))
        card = {"mode": mode, "classes": ["grass", "ocean", "road"], "architecture": network.architecture, "fit": "stretch", "mirror": True}
        modelfile.save(folder / f"model_{mode}", network, card)
    return folder


@pytest.fixture(scope="session")
def python313():
    """A Python 3.13, the one that Lambda runs."""
    from build import find_python  # here, not above: most tests need none

    try:
        return find_python()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, models, python313):
    """What lambda/build.py makes for this machine's architecture; unpacked as in Lambda, in code/ and layer/."""
    folder = tmp_path_factory.mktemp("bundle")
    result = runtime.build(folder, models)
    if "pip could not fetch" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    zipfile.ZipFile(folder / "get_scene.zip").extractall(folder / "code")
    zipfile.ZipFile(next(folder.glob("layer-*.zip"))).extractall(folder / "layer")
    return folder
