"""Common to both rivals, and as lean as in lambda/get_scene.py: fetch from S3, decode a photo, answer."""

import base64
import http.client
import os
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from PIL import Image

CLASSES = ["grass", "ocean", "road"]
SIZE = 80                   # pixels a side of the CNN's photos


def fetch(key):
    """The bytes of an object of the bucket."""
    given = os.environ
    credentials = Credentials(
        given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given["AWS_SESSION_TOKEN"])
    request = AWSRequest("GET", f"{given['AWS_ENDPOINT_URL_S3']}/{given['SCENE_BUCKET']}/{key}")
    S3SigV4Auth(credentials, "s3", given["AWS_REGION"]).add_auth(request)
    url = urlsplit(request.url)
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("GET", url.path, headers=dict(request.headers.items()))
    return connection.getresponse().read()


def read(event):
    """A photo and its mirror image: float32 (2, SIZE, SIZE, 3)."""
    image = Image.open(BytesIO(base64.b64decode(event["imageBase64"])))
    image.draft("RGB", (SIZE, SIZE))
    square = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    x = np.asarray(square, np.float32)
    return np.stack([x, x[:, ::-1]])


def answer(z):
    """The logits of both, (2, K) -> the answer."""
    z = z.mean(0)
    p = np.exp(z - z.max())
    p /= p.sum()
    return {"scene": CLASSES[p.argmax()], "probabilities": dict(zip(CLASSES, p.tolist(), strict=True))}
