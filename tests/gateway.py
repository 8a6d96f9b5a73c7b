"""The part that API Gateway plays, small: signature, policy, size, rate, the template's own refusals, and the call of the function.

The signature is checked by computing it again with botocore's own signer, from nothing but what came over the wire and the secret. The
policies are those that the stack attached to the users. What is refused, and with which status, follows the API Gateway Developer Guide
(gateway response types; quotas); in which order it checks AWS does not say, nor which type a key gets that does not exist.
"""

import fnmatch
import json
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

MAX_REQUEST = 10 * 1024 * 1024      # bytes that API Gateway takes
MAX_EVENT = 6 * 1024 * 1024         # bytes that Lambda takes
SKEW = 300                          # seconds for which a signature is good
STATUS = {                          # the types of gateway responses, with their statuses
    "ACCESS_DENIED": 403, "API_CONFIGURATION_ERROR": 500, "AUTHORIZER_CONFIGURATION_ERROR": 500, "AUTHORIZER_FAILURE": 500,
    "BAD_REQUEST_PARAMETERS": 400, "BAD_REQUEST_BODY": 400, "EXPIRED_TOKEN": 403, "INTEGRATION_FAILURE": 504, "INTEGRATION_TIMEOUT": 504,
    "INVALID_API_KEY": 403, "INVALID_SIGNATURE": 403, "MISSING_AUTHENTICATION_TOKEN": 403, "QUOTA_EXCEEDED": 429, "REQUEST_TOO_LARGE": 413,
    "RESOURCE_NOT_FOUND": 404, "THROTTLED": 429, "UNAUTHORIZED": 401, "UNSUPPORTED_MEDIA_TYPE": 415, "WAF_FILTERED": 403,
}


class Refused(Exception):
    """Refused by the gateway itself; the argument is the type of the gateway response."""


class Gateway:
    """A gateway at `url` in front of a function: event -> answer, both as in Lambda's proxy integration.

    template: template.yaml as a dict; users: {access key: (secret, [policy documents])}; arn: of the API's stage.
    """

    def __init__(self, template, users, arn, function, rate=10, burst=20, clock=time.time):
        self.users, self.arn, self.function, self.clock = users, arn, function, clock
        resources = [resource["Properties"] for resource in template["Resources"].values()]
        self.responses = {each["ResponseType"]: each for each in resources if "ResponseType" in each}
        self.rate, self.burst, self.tokens, self.filled, self.lock = rate, burst, burst, clock(), threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.make_handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/live/get_scene"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def make_handler(gateway):          # noqa: N805  the handler inside has a self of its own
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, text = gateway.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

            def log_message(self, *arguments):
                pass

        return Handler

    def answer(self, method, path, headers, body):
        """A request as it came -> (status, headers, body as bytes)."""
        request_id = str(uuid.uuid4())
        try:
            self.check(method, path, headers, body)
            return self.integrate(method, path, body, request_id)
        except Refused as error:
            return self.refuse(str(error), request_id)

    def check(self, method, path, headers, body):
        """Raises Refused if this request never gets as far as the function."""
        if (method, path) != ("POST", "/live/get_scene"):
            raise Refused("MISSING_AUTHENTICATION_TOKEN")
        policies = self.authenticate(method, path, {name.lower(): value for name, value in headers.items()}, body)
        if len(body) > MAX_REQUEST:
            raise Refused("REQUEST_TOO_LARGE")
        if not allowed(policies, "execute-api:Invoke", f"{self.arn}/{method}/get_scene"):
            raise Refused("ACCESS_DENIED")
        with self.lock:
            now = self.clock()
            self.tokens, self.filled = min(self.burst, self.tokens + self.rate * max(0, now - self.filled)), now
            if self.tokens < 1:
                raise Refused("THROTTLED")
            self.tokens -= 1

    def authenticate(self, method, path, headers, body):
        """The policies of whoever signed the request. Raises Refused."""
        scheme, _, fields = headers.get("authorization", "").partition(" ")
        parts = dict(field.strip().split("=", 1) for field in fields.split(",") if "=" in field)
        if scheme != "AWS4-HMAC-SHA256" or not {"Credential", "SignedHeaders", "Signature"} <= set(parts) or "x-amz-date" not in headers:
            raise Refused("MISSING_AUTHENTICATION_TOKEN")
        key, day, region, service, _ = parts["Credential"].rsplit("/", 4)
        names = parts["SignedHeaders"].split(";")
        if key not in self.users or "host" not in names or service != "execute-api" or region != self.arn.split(":")[3]:
            raise Refused("INVALID_SIGNATURE")
        secret, policies = self.users[key]
        request = AWSRequest(method, f"http://{headers['host']}{path}", data=body, headers={name: headers[name] for name in names})
        request.context["timestamp"] = headers["x-amz-date"]
        signer = SigV4Auth(Credentials(key, secret), service, region)
        signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        sent = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if signature != parts["Signature"] or not headers["x-amz-date"].startswith(day) or abs(self.clock() - sent) > SKEW:
            raise Refused("INVALID_SIGNATURE")
        return policies

    def integrate(self, method, path, body, request_id):
        """Calls the function. Raises Refused if what it answers is no answer."""
        event = {"httpMethod": method, "path": "/get_scene", "body": body.decode() or None, "isBase64Encoded": False,
                 "requestContext": {"requestId": request_id, "stage": "live"}}
        if len(json.dumps(event)) > MAX_EVENT:
            raise Refused("REQUEST_TOO_LARGE")
        try:
            answer = self.function(event)
            return answer["statusCode"], answer["headers"], answer["body"].encode()
        except TimeoutError as error:
            raise Refused("INTEGRATION_TIMEOUT") from error
        except Exception as error:
            raise Refused("INTEGRATION_FAILURE") from error

    def refuse(self, kind, request_id):
        """The template's response for a type, or that for all others of its hundred."""
        status = STATUS[kind]
        response = self.responses.get(kind) or self.responses[f"DEFAULT_{status // 100}XX"]
        text = response["ResponseTemplates"]["application/json"]
        text = text.replace("$context.requestId", request_id).replace("$context.error.responseType", kind)
        headers = {"Content-Type": "application/json"}
        for name, value in response.get("ResponseParameters", {}).items():
            headers[name.removeprefix("gatewayresponse.header.")] = value.strip("'")
        return int(response.get("StatusCode", status)), headers, text.encode()


def allowed(policies, action, resource):
    """Whether IAM would allow it: something allows it, nothing denies it. Statements with conditions are beyond this function."""
    effects = set()
    for statement in (statement for policy in policies for statement in listed(policy["Statement"])):
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource"}, statement
        if matches(action, statement["Action"]) and matches(resource, statement["Resource"]):
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in listed(patterns))


def listed(value):
    return value if isinstance(value, list) else [value]
