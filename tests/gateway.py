"""A small API Gateway: checks signature, policy, size and rate, and calls the function.

It verifies a signature by computing it again with botocore's own signer, from the secret and the request as
it arrived. The policies are those that the stack attached to the users, and the texts of refusals are those
of the template. The types of refusals and their statuses follow the API Gateway Developer Guide (gateway
response types, quotas). AWS does not document the order of the checks, nor the type for an unknown key.
"""

import base64
import fnmatch
import json
import threading
import time
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

MAX_REQUEST = 10 * 1024 * 1024      # bytes, API Gateway's limit
MAX_EVENT = 6 * 1024 * 1024         # bytes, Lambda's limit
SKEW = 300                          # seconds for which a signature is valid
STATUS = {                          # the types of gateway responses, with their statuses
    "ACCESS_DENIED": 403, "API_CONFIGURATION_ERROR": 500, "AUTHORIZER_CONFIGURATION_ERROR": 500,
    "AUTHORIZER_FAILURE": 500, "BAD_REQUEST_PARAMETERS": 400, "BAD_REQUEST_BODY": 400, "EXPIRED_TOKEN": 403,
    "INTEGRATION_FAILURE": 504, "INTEGRATION_TIMEOUT": 504, "INVALID_API_KEY": 403, "INVALID_SIGNATURE": 403,
    "MISSING_AUTHENTICATION_TOKEN": 403, "QUOTA_EXCEEDED": 429, "REQUEST_TOO_LARGE": 413,
    "RESOURCE_NOT_FOUND": 404, "THROTTLED": 429, "UNAUTHORIZED": 401, "UNSUPPORTED_MEDIA_TYPE": 415,
    "WAF_FILTERED": 403,
}


class Refused(Exception):
    """Refused by the gateway itself. The argument is the type of the gateway response."""


class Gateway:
    """A gateway at `url` in front of a function: event -> answer, both as in Lambda's proxy integration.

    template: template.yaml as a dict. users: {access key: (secret, [policy documents])}. arn: the stage's.
    cors: the parameter CorsOrigin.
    """

    def __init__(self, template, users, arn, function, rate=10, burst=20, clock=time.time, cors=""):
        self.users = users
        self.arn = arn
        self.function = function
        self.clock = clock
        resources = [resource["Properties"] for resource in template["Resources"].values()
                     if cors or resource.get("Condition") != "Cors"]
        resources = without_nothing(resolve(resources, cors))
        self.responses = {each["ResponseType"]: each for each in resources if "ResponseType" in each}
        self.methods = {each["HttpMethod"]: each for each in resources if "HttpMethod" in each}
        self.binary = [kind.replace("~1", "/") for each in resources for kind in
                       each.get("BinaryMediaTypes", [])]
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.filled = clock()
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}/live/get_scene"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method, path, headers, body):
        """A request as it arrived -> (status, headers, body as bytes)."""
        request_id = str(uuid.uuid4())
        headers = {name.lower(): value for name, value in headers.items()}
        try:
            self.check(method, path, headers, body)
            if self.methods[method]["Integration"]["Type"] == "MOCK":
                return self.mock(method)
            return self.integrate(method, path, headers, body, request_id)
        except Refused as error:
            return self.refuse(str(error), request_id)

    def check(self, method, path, headers, body):
        """Raises Refused unless the request may reach the function."""
        if method not in self.methods or path.partition("?")[0] != "/live/get_scene":
            raise Refused("MISSING_AUTHENTICATION_TOKEN")
        if self.methods[method]["AuthorizationType"] == "NONE":
            return
        policies = self.authenticate(method, path, headers, body)
        if len(body) > MAX_REQUEST:
            raise Refused("REQUEST_TOO_LARGE")
        if not allowed(policies, "execute-api:Invoke", f"{self.arn}/{method}/get_scene"):
            raise Refused("ACCESS_DENIED")
        with self.lock:
            now = self.clock()
            self.tokens = min(self.burst, self.tokens + self.rate * max(0, now - self.filled))
            self.filled = now
            if self.tokens < 1:
                raise Refused("THROTTLED")
            self.tokens -= 1

    def authenticate(self, method, path, headers, body):
        """The policies of the user who signed the request. Raises Refused."""
        scheme, _, fields = headers.get("authorization", "").partition(" ")
        parts = dict(field.strip().split("=", 1) for field in fields.split(",") if "=" in field)
        complete = {"Credential", "SignedHeaders", "Signature"} <= set(parts) and "x-amz-date" in headers
        if scheme != "AWS4-HMAC-SHA256" or not complete:
            raise Refused("MISSING_AUTHENTICATION_TOKEN")
        key, day, region, service, _ = parts["Credential"].rsplit("/", 4)
        names = parts["SignedHeaders"].split(";")
        if key not in self.users or "host" not in names or service != "execute-api" \
                or region != self.arn.split(":")[3]:
            raise Refused("INVALID_SIGNATURE")
        secret, policies = self.users[key]
        request = AWSRequest(method, f"http://{headers['host']}{path}", data=body,
                             headers={name: headers[name] for name in names})
        date = headers["x-amz-date"]
        request.context["timestamp"] = date
        signer = SigV4Auth(Credentials(key, secret), service, region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        signature = signer.signature(text, request)
        sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if signature != parts["Signature"] or not date.startswith(day) or abs(self.clock() - sent) > SKEW:
            raise Refused("INVALID_SIGNATURE")
        return policies

    def mock(self, method):
        """The answer of an integration that calls nothing."""
        response, = self.methods[method]["Integration"]["IntegrationResponses"]
        headers = {name.removeprefix("method.response.header."): value.strip("'")
                   for name, value in response["ResponseParameters"].items()}
        return int(response["StatusCode"]), headers, b""

    def integrate(self, method, path, headers, body, request_id):
        """Calls the function. Raises Refused if it fails or returns anything but an answer."""
        binary = headers.get("content-type", "").partition(";")[0].strip() in self.binary
        text = base64.b64encode(body).decode() if binary else body.decode(errors="replace")
        query = dict(parse_qsl(urlsplit(path).query))
        event = {"httpMethod": method, "path": "/get_scene", "body": text or None, "headers": headers,
                 "queryStringParameters": query or None, "isBase64Encoded": binary,
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
        """The template's response for a type, or its default for 4xx or 5xx."""
        status = STATUS[kind]
        response = self.responses.get(kind) or self.responses[f"DEFAULT_{status // 100}XX"]
        text = response["ResponseTemplates"]["application/json"]
        text = text.replace("$context.requestId", request_id).replace("$context.error.responseType", kind)
        headers = {"Content-Type": "application/json"}
        for name, value in response.get("ResponseParameters", {}).items():
            headers[name.removeprefix("gatewayresponse.header.")] = value.strip("'")
        return int(response.get("StatusCode", status)), headers, text.encode()


NO_VALUE = {"Ref": "AWS::NoValue"}


def resolve(value, cors):
    """A part of the template with CORS on or off: the intrinsic functions that depend on it are replaced."""
    if isinstance(value, list):
        return [resolve(each, cors) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("Fn::If", [""])[0] == "Cors":
        return resolve(value["Fn::If"][1 if cors else 2], cors)
    if "${CorsOrigin}" in str(value.get("Fn::Sub", "")):
        return value["Fn::Sub"].replace("${CorsOrigin}", cors)
    return {name: resolve(each, cors) for name, each in value.items()}


def without_nothing(value):
    """The same without members that are AWS::NoValue."""
    if isinstance(value, list):
        return [without_nothing(each) for each in value]
    if isinstance(value, dict):
        return {name: without_nothing(each) for name, each in value.items() if each != NO_VALUE}
    return value


def make_handler(gateway):
    """The request handler of a gateway's server."""
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


def allowed(policies, action, resource):
    """Whether IAM allows the action: a statement allows it, none denies it. Conditions are not supported."""
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
