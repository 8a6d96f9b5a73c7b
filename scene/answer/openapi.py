"""The HTTP interface of the endpoint as an OpenAPI document, for scene.serve and for AWS.

The schemas are here only. cloudformation/ puts them into the models of API Gateway, and each server adds what
only it answers: scene.serve the codes of endpoint.SERVE_ONLY, AWS those of its gateway.
Source: OpenAPI Specification 3.0.3.

Next: ../photos/decode.py
"""

from __future__ import annotations

from collections.abc import Iterable

from scene.answer.calibration import REASONS
from scene.answer.endpoint import FOR_OTHERS, PAGE_ONLY, SERVE_ONLY, STATUS, Terms
from scene.models import MODES
from scene.version import VERSION

PATH = "/get_scene"
GATEWAY = {                 # the codes of API Gateway's own refusals, with their statuses
    "not_signed": 403, "bad_signature": 403, "expired": 403, "not_allowed": 403, "photo_too_large": 413,
    "too_many_requests": 429, "timeout": 504, "refused": 400, "internal_error": 500,
}
SIGNED = {"sigv4": {        # the security scheme as API Gateway exports it
    "type": "apiKey", "name": "Authorization", "in": "header", "x-amazon-apigateway-authtype": "awsSigv4"}}
MEANING = {200: "The scene", 400: "The request or the photo cannot be used", 403: "The caller is not allowed",
           404: "There is nothing at this address", 405: "The method is not supported",
           408: "The body arrived too slowly", 411: "The request has no Content-Length",
           413: "The photo is too large", 414: "The address is too long",
           421: "The Host is another machine's", 429: "There are too many requests",
           431: "The headers are too large", 500: "The endpoint failed to answer",
           503: "The endpoint cannot answer at the moment", 504: "The answer took too long"}

MODE = {"type": "string", "enum": list(MODES)}
CLASS_MAP = {
    "type": "object",
    "description": "Only if asked for: what the places of the photo contribute to the score of the scene",
    "required": ["class", "exact", "score", "places"],
    "properties": {
        "class": {"type": "string"},
        "exact": {"type": "boolean", "description": "Whether score = bias + the sum of all places"},
        "score": {"type": "number", "description": "The logit, before any temperature"},
        "bias": {"type": "number", "description": "Only if exact"},
        "places": {"type": "array", "description": "Rows from the top, each from the left",
                   "items": {"type": "array", "items": {"type": "number"}}},
    },
}
HEALTH = {                  # of scene.serve only
    "type": "object",
    "required": ["status", "version", "models", "limits"],
    "properties": {
        "status": {"type": "string", "enum": ["ok"]},
        "version": {"type": "string"},
        "models": {"type": "object", "description": "By mode, the one first that answers if none is named",
                   "additionalProperties": {
                       "type": "object", "required": ["model", "classes"],
                       "properties": {"model": {"type": "string"},
                                      "classes": {"type": "array", "items": {"type": "string"}}}}},
        "limits": {"type": "object", "required": ["formats", "bytes", "pixels"],
                   "properties": {"formats": {"type": "array", "items": {"type": "string"}},
                                  "bytes": {"type": "integer"}, "pixels": {"type": "integer"}}},
    },
}
SCHEMAS = {
    "SceneRequest": {
        "type": "object",
        "required": ["mode", "imageBase64"],
        "additionalProperties": False,
        "properties": {
            "mode": MODE,
            "imageBase64": {"type": "string", "description": "A JPEG or PNG, in base64"},
            "map": {"type": "boolean", "description": "Whether to add the class map, false by default"},
        },
    },
    "SceneAnswer": {
        "type": "object",
        "required": ["scene", "probabilities", "mode", "model", "requestId"],
        "properties": {
            "scene": {"type": "string", "description": "The likeliest class"},
            "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
            "sure": {"type": "boolean", "description": "Whether the scene is to be relied on"},
            "reason": {"type": "string", "enum": list(REASONS), "description": "Why it is not sure"},
            "mode": MODE,
            "model": {"type": "string", "description": "The first 12 hex digits of the model file's SHA-256"},
            "requestId": {"type": "string"},
            "map": CLASS_MAP,
        },
    },
    "SceneError": {
        "type": "object",
        "required": ["error", "requestId"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": {"type": "string", "description": "Never changes, for programs"},
                    "message": {"type": "string", "description": "A sentence, for people"},
                },
            },
            "requestId": {"type": "string"},
        },
    },
}


def of_the_gateway() -> dict[str, int]:
    """{code: status} of everything that the endpoint on AWS can answer but the scene."""
    return {code: status for code, status in STATUS.items() if code not in SERVE_ONLY} | GATEWAY


def document(server: str, codes: dict[str, int], security: dict | None = None,
             terms: Terms = FOR_OTHERS) -> dict:
    """The OpenAPI document of the endpoint at the URL `server`.

    codes: {code: status} of its refusals. security: its security scheme, if requests are signed.
    """
    raw = [f"image/{name.lower()}" for name in terms.limits.formats]
    operation = {
        "operationId": "getScene",
        "summary": "Says which scene a photo shows",
        "parameters": [{
            "name": "mode", "in": "query", "required": False, "schema": MODE,
            "description": "The mode, if the body is the photo itself"}],
        "requestBody": {"required": True, "content": {
            "application/json": {"schema": reference("SceneRequest")},
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in raw}}},
        "responses": {
            "200": response(200, "SceneAnswer"),
            **{str(status): response(status, "SceneError", (code for code in codes if codes[code] == status))
               for status in sorted(set(codes.values()))}},
    }
    request = SCHEMAS["SceneRequest"]
    if terms.mode:
        request = request | {"required": ["imageBase64"]}
    components = {"schemas": SCHEMAS | {"SceneRequest": request}}
    if security:
        operation["security"] = [{name: [] for name in security}]
        components["securitySchemes"] = security
    return {
        "openapi": "3.0.3",
        "info": {"title": "Scene", "version": VERSION, "description": "Sorts photographs into scenes."},
        "servers": [{"url": server}],
        "paths": {PATH: {"post": operation}},
        "components": components,
    }


def of_the_server(terms: Terms) -> dict:
    """The OpenAPI document of scene.serve, which also says whether it is well."""
    found = document("/", {code: STATUS[code] for code in STATUS if code not in PAGE_ONLY}, terms=terms)
    found["components"]["schemas"]["Health"] = HEALTH
    found["paths"]["/health"] = {"get": {
        "operationId": "getHealth",
        "summary": "Says that the server runs, which models it has, and what it accepts",
        "responses": {"200": {"description": "It runs", "content": {
            "application/json": {"schema": reference("Health")}}},
            **{str(STATUS[code]): response(STATUS[code], "SceneError", [code])
               for code in ("bad_request", "wrong_origin", "wrong_host")}}}}
    return found


def response(status: int, schema: str, codes: Iterable[str] = ()) -> dict:
    """A response with this status, described with the codes that it can have."""
    listed = ", ".join(sorted(codes))
    return {"description": f"{MEANING[status]}: {listed}" if listed else MEANING[status],
            "content": {"application/json": {"schema": reference(schema)}}}


def reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}
