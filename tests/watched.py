"""lambda/get_scene.py's handler under watch: the event "deeds" asks which forbidden things the process did.

AWS's runtime client imports this file. It imports nothing else of the tests, so the process holds the same
modules as in Lambda.
"""

import os
import sys
from urllib.parse import urlsplit

from get_scene import handler as get_scene

HARMLESS = {"os.listdir", "os.scandir", "os.putenv"}        # the runtime client sets the trace id's variable
WATCHED = "os.", "shutil.", "subprocess.", "tempfile.", "socket.bind"
DEEDS = []


def watch(name, arguments):
    """An audit hook: notes files that are written, processes that are started, hosts that are contacted."""
    if name == "open":
        bad = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif name == "socket.connect":
        bad = "{}:{}".format(*arguments[1]) != urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).netloc
    else:
        bad = name.startswith(WATCHED) and name not in HARMLESS
    if bad:
        DEEDS.append(f"{name} {arguments}"[:200])


sys.addaudithook(watch)


def handler(event, context):
    if event == "deeds":
        plugins = [name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")]
        return {"deeds": DEEDS, "plugins": sorted(plugins)}
    return get_scene(event, context)
