"""What a request asks for, read strictly: types as they are declared, nothing unknown, nothing converted."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from serving.http.errors import Refusal, shown

if TYPE_CHECKING:
    from starlette.types import Scope

LARGEST_ID = 2**63 - 1
_DIGITS = re.compile(r"[0-9]{1,19}")


class Asked(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A user's embeddings, and optionally what is newly known of the user. Of a repeated name the last one counts."""

    user_id: Annotated[int, Meta(description="0 to 2^63 - 1", examples=[4711])]
    models: Annotated[
        list[str], Meta(description="User models; empty or left out: all that are served.", examples=[["demo"]])
    ] = []
    features: Annotated[
        dict[str, list[int] | float] | None,
        Meta(
            description="The user's features now: a list of ids per sparse feature, a number per dense one; what is "
            "not given is empty or 0. Left out: computed with the features that are known.",
            examples=[{"ids_000": [3, 14, 15], "dense_000": 2.5}],
        ),
    ] = None
    feature_time: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(
            description="When the features were so, with a time zone. Left out: when the service got them.",
            examples=["2026-01-05T12:00:00.250Z"],
        ),
    ] = None


_DECODER = msgspec.json.Decoder(Asked)


def user_id_of(text: str) -> int:
    """Out of a path. Refusal 400."""
    if _DIGITS.fullmatch(text) is None or int(text) > LARGEST_ID:
        raise Refusal(400, f"user id {shown(text)}; an id is an integer from 0 to {LARGEST_ID}, in digits")
    return int(text)


def models_of(scope: Scope, known: Collection[str], most: int) -> tuple[str, ...]:
    """The user models that a query string names: `model=…`, repeated. Refusal 400 or 404."""
    text = scope["query_string"].decode("latin-1")
    if not text:
        return tuple(known)
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=most)
    except ValueError:  # UnicodeDecodeError is one
        raise Refusal(400, f"query {shown(text)}; it is model=NAME&model=NAME, {most} at most") from None
    if others := [name for name, _ in pairs if name != "model"]:
        raise Refusal(400, f"parameter {shown(others[0])} is not known here; the one there is: model")
    return checked_models([name for _, name in pairs], known, most)


def checked_models(names: Sequence[str], known: Collection[str], most: int) -> tuple[str, ...]:
    """Without repetitions; all that are known where none is named. Refusal 400 or 404."""
    if not names:
        return tuple(known)
    if len(names) > most:
        raise Refusal(400, f"{len(names)} user models in one request; {most} is the most: ask again for the others")
    for name in names:
        if name not in known:
            raise Refusal(404, f"user model {shown(name)} is not served here; served: {', '.join(sorted(known))}")
    return tuple(dict.fromkeys(names))


def asked_of(body: bytes) -> Asked:
    """Out of a JSON body. Refusal 400."""
    try:
        asked = _DECODER.decode(body)
    except UnicodeDecodeError:
        raise Refusal(400, "the body is no JSON: a text in it is not UTF-8") from None
    except msgspec.ValidationError as error:
        raise Refusal(400, f"the body is not what is asked for: {error}; see /openapi.json") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}; send one object, see /openapi.json") from None
    if not 0 <= asked.user_id <= LARGEST_ID:
        raise Refusal(400, f"user_id {shown(asked.user_id)}; an id is an integer from 0 to {LARGEST_ID}")
    if asked.feature_time is not None and asked.features is None:
        raise Refusal(400, "a feature_time without features; send both, or none of them")
    return asked


def require_json(scope: Scope) -> None:
    """Refusal 415 for a body that says it is something else: a page of another site can send only such ones unasked."""
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    given = types[0].decode("latin-1") if types else ""
    if len(types) > 1 or given.split(";")[0].strip().lower() != "application/json":
        raise Refusal(415, f"content type {shown(given)}; send application/json")
