"""What `/openapi.json` says of the two ways to ask for embeddings; the types are those that requests are read with."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serving.http.answers import JSON, MSGPACK, Answered
from serving.http.asked import Asked
from serving.http.limits import Limits

DESCRIPTION = """A user's embeddings, of one or more user models, at once: the mean of what earlier requests had
computed. The request's own computation comes after (section 4 of *Scaling User Modeling*), except in real-time
mode. Every answer says which versions computed it, from features of when, how long ago, and where it came from. A user
of whom nothing is known gets the declared default: zeros, and `"default": true`.
"""
_STATES = {
    400: "Something is not what it should be; the text names it, the rule and the remedy.",
    404: "A user model that is not served here.",
    408: "The request, or its body, did not come in time.",
    413: "The body is too long.",
    415: "The body is not said to be JSON.",
    421: "The Host header names another service.",
    503: "Too many requests at once; `Retry-After` says when to come again.",
}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "The value, the rule and the remedy."}},
    "required": ["error"],
}


def _responses(*statuses: int) -> dict[str, Any]:
    embeddings = {"schema": {"$ref": "#/components/schemas/Answered"}}
    found: dict[str, Any] = {
        "200": {
            "description": "One entry per user model. `Accept: application/msgpack` gives the same document as "
            "MessagePack, its vectors as little-endian float16.",
            "content": {JSON: embeddings, MSGPACK: embeddings},
        }
    }
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return found | {str(status): {"description": _STATES[status], "content": error} for status in statuses}


GET_EMBEDDINGS: dict[str, Any] = {
    "parameters": [
        {
            "name": "user_id",
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "format": "int64", "minimum": 0},
            "example": 4711,
        },
        {
            "name": "model",
            "in": "query",
            "description": "A user model, repeated for several; left out: all that are served.",
            "schema": {"type": "array", "items": {"type": "string"}},
            "explode": True,
            "example": ["demo"],
        },
    ],
    "responses": _responses(400, 404, 408, 421, 503),
}
POST_EMBEDDINGS: dict[str, Any] = {
    "requestBody": {"required": True, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Asked"}}}},
    "responses": _responses(400, 404, 408, 413, 415, 421, 503),
}


def document(app: FastAPI, limits: Limits) -> dict[str, Any]:
    """The whole document."""
    _, schemas = msgspec.json.schema_components([Asked, Answered], ref_template="#/components/schemas/{name}")
    bounds = (
        f"Limits: {limits.body_bytes} bytes of body, {limits.url_bytes} of URL, {limits.models} user models per "
        f"request, {limits.in_flight} requests at once, {limits.seconds:g} s per request."
    )
    found = get_openapi(
        title="usermodel serving", version="1", description=f"{DESCRIPTION}\n{bounds}", routes=app.routes
    )
    found["components"] = {"schemas": {**schemas, "Error": _ERROR}}
    return found
