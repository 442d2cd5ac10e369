"""Uploads in parts that nobody finished: a killed writer leaves them, no reader sees them, and they are paid for.

No client that we have lists them, so these two requests are signed here (AWS Signature Version 4). Where keys come from
the machine's role, they are not ours to sign with: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) does
the same, and is worth having in any case.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import httpx

from features.object_store import Connection, connection, in_object_store
from features.storage_errors import StorageError

log = logging.getLogger(__name__)

_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One that was begun, and neither finished nor given up."""

    key: str
    """Within the bucket."""
    identity: str
    begun: datetime


def unfinished_uploads(uri: str) -> Iterator[Upload]:
    """Those under `uri`; none for a folder, nor without keys of our own. StorageError: the storage refuses."""
    if not in_object_store(uri):
        return
    found = connection()
    if found.keys is None:
        log.info("%s: unfinished uploads are not looked for with the machine's role; let the bucket end them", uri)
        return
    prefix, asked = f"{uri.split('/', 3)[3]}/", {"uploads": ""}
    while True:
        page = ElementTree.fromstring(_asked("GET", uri, "", asked | {"prefix": prefix}, to=found))  # noqa: S314
        for one in page.iterfind("{*}Upload"):
            yield Upload(
                key=_text(one, "Key"),
                identity=_text(one, "UploadId"),
                begun=datetime.fromisoformat(_text(one, "Initiated")).astimezone(UTC),
            )
        if _text(page, "IsTruncated") != "true":
            return
        markers = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
        asked |= {name: _text(page, element) for name, element in markers.items()}


def give_up(uri: str, upload: Upload) -> None:
    """Delete its parts. One that is gone already is left."""
    _asked("DELETE", uri, upload.key, {"uploadId": upload.identity}, to=connection())


def _asked(method: str, uri: str, key: str, query: dict[str, str], *, to: Connection) -> bytes:
    """The answer's body."""
    endpoint = to.endpoint or f"https://s3.{to.region}.amazonaws.com"
    path = quote(f"/{uri.split('/')[2]}/{key}".rstrip("/"), safe="/-_.~")
    asked = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
    headers = _signed(method, path, asked, host=urlsplit(endpoint).netloc, by=to, at=datetime.now(UTC))
    try:
        answer = httpx.request(method, f"{endpoint}{path}?{asked}", headers=headers, timeout=to.seconds)
    except httpx.HTTPError as error:
        raise StorageError(f"{uri}: {method} {path} had no answer ({error}); see whether the server runs") from error
    gone = method == "DELETE" and answer.status_code == httpx.codes.NOT_FOUND
    if not (answer.is_success or gone):
        raise StorageError(
            f"{uri}: {method} {path} was refused with {answer.status_code}; allow the keys "
            f"s3:ListBucketMultipartUploads and s3:AbortMultipartUpload ({answer.text[:200]})"
        )
    return answer.content


def _signed(method: str, path: str, query: str, *, host: str, by: Connection, at: datetime) -> dict[str, str]:
    assert by.keys is not None
    when, names = at.strftime("%Y%m%dT%H%M%SZ"), ["host", "x-amz-content-sha256", "x-amz-date"]
    headers = dict(zip(names, (host, _EMPTY, when), strict=True))
    if by.keys.session_token is not None:
        headers["x-amz-security-token"] = by.keys.session_token.get_secret_value()
    listed, scope = ";".join(headers), f"{when[:8]}/{by.region}/s3/aws4_request"
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = hashlib.sha256("\n".join([method, path, query, lines, listed, _EMPTY]).encode()).hexdigest()
    key = f"AWS4{by.keys.secret_access_key.get_secret_value()}".encode()
    for part in (*scope.split("/"), "\n".join(["AWS4-HMAC-SHA256", when, scope, request])):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"{by.keys.access_key_id.get_secret_value()}/{scope}"
    return headers | {
        "authorization": f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={listed},Signature={key.hex()}"
    }


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
