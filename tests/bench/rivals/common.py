"""What both rivals do alike, and as lightly as lambda/get_scene.py: fetch from S3, decode a photo, answer."""

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
SIZE = 80                   # of the photos that the CNN takes


def fetch(key):
    """The bytes of an object of the bucket."""
    credentials = Credentials(*(os.environ[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")))
    request = AWSRequest("GET", f"{os.environ['AWS_ENDPOINT_URL_S3']}/{os.environ['SCENE_BUCKET']}/{key}")
    S3SigV4Auth(credentials, "s3", os.environ["AWS_REGION"]).add_auth(request)
    url = urlsplit(request.url)
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("GET", url.path, headers=dict(request.headers.items()))
    return connection.getresponse().read()


def read(event):
    """The photo and its mirror image, (2, SIZE, SIZE, 3) float32."""
    image = Image.open(BytesIO(base64.b64decode(event["imageBase64"])))
    image.draft("RGB", (SIZE, SIZE))
    square = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    x = np.asarray(square, np.float32)
    return np.stack([x, x[:, ::-1]])


def answer(z):
    """Logits of both, (2, K) -> the answer."""
    z = z.mean(0)
    p = np.exp(z - z.max())
    p /= p.sum()
    return {"scene": CLASSES[p.argmax()], "probabilities": dict(zip(CLASSES, p.tolist(), strict=True))}
