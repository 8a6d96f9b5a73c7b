"""lambda/get_scene.py's handler under watch: the event "deeds" asks what the process did that is no business of a handler.

Imported by AWS's runtime client. It imports nothing else of the tests: what is in this process is what Lambda would have in it.
"""

import os
import sys
from urllib.parse import urlsplit

from get_scene import handler as get_scene

HARMLESS = {"os.listdir", "os.scandir", "os.putenv"}        # the runtime client keeps the trace id in the environment
DEEDS = []


def watch(name, arguments):
    """Called by Python before whatever a process does to the world: notes what is written, started or connected to."""
    if name == "open":
        bad = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif name == "socket.connect":
        bad = "{}:{}".format(*arguments[1]) != urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).netloc
    else:
        bad = name.startswith(("os.", "shutil.", "subprocess.", "tempfile.", "socket.bind")) and name not in HARMLESS
    if bad:
        DEEDS.append(f"{name} {arguments}"[:200])


sys.addaudithook(watch)


def handler(event, context):
    if event == "deeds":
        return {"deeds": DEEDS, "plugins": sorted(name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin"))}
    return get_scene(event, context)
