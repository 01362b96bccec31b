"""A request made into the event that a handler gets."""
import base64
import json
import re
from urllib.parse import parse_qsl

from . import log
from .http1 import Request
from .spec import Spec

#: Types whose bodies are text.
TEXT = re.compile(r"text/.*|application/(json|xml|x-www-form-urlencoded|(x-)?javascript|ecmascript|graphql|(x-)?yaml|x-ndjson"
                  r"|.*\+(json|xml|yaml))")
TYPE = re.compile(r"[a-zA-Z0-9-]{1,63}")
SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?]*")


class BadEvent(Exception):
    """An event that the platform sent wrongly."""


def _headers(pairs: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        if name in headers:
            headers[name] += ("; " if name == "cookie" else ", ") + value
        else:
            headers[name] = value
    return headers


def _target(target: str) -> tuple[str, str]:
    """The path as it was sent, and the query. A proxy's form `http://host/path` has the same parts behind its host."""
    match = SCHEME.match(target)
    if match:
        target = target[match.end():] or "/"
    path, _, query = target.partition("?")
    return path, query


def _media(headers: dict[str, str]) -> tuple[str, str]:
    """Type and charset of a body."""
    media, *parameters = (part.strip() for part in headers.get("content-type", "").lower().split(";"))
    charset = next((p[len("charset="):].replace('"', "") for p in parameters if p.startswith("charset=")), "utf-8")
    return media, charset


def _text(body: bytes, headers: dict[str, str]) -> str | None:
    """The text of a body if its type is text and its bytes are."""
    media, charset = _media(headers)
    if media and not TEXT.fullmatch(media):
        return None
    if headers.get("content-encoding", "") not in ("", "identity") or charset not in ("utf-8", "utf8", "us-ascii"):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _context(call_id: str, request: Request, headers: dict[str, str], spec: Spec) -> dict:
    forwarded = headers.get("x-forwarded-for", "").split(",", 1)[0].strip()
    context = {
        "requestId": call_id,
        "sourceIp": forwarded or request.peer,
        "time": log.now(),
        "function": {"namespace": spec.namespace, "name": spec.name, "revision": spec.revision},
    }
    if "x-forwarded-prefix" in headers:
        context["prefix"] = headers["x-forwarded-prefix"]
    if "traceparent" in headers:
        context["traceparent"] = headers["traceparent"]
    return context


def _payload(body: bytes, headers: dict[str, str]) -> object:
    if not body:
        return None
    media, _ = _media(headers)
    is_json = media == "application/json" or media.endswith("+json")
    try:
        text = body.decode()
        return json.loads(text) if is_json else text
    except ValueError as error:
        raise BadEvent(f"the payload is not {'JSON' if is_json else 'UTF-8 text'}: {error}") from None


def _from_platform(request: Request, headers: dict[str, str], context: dict) -> dict:
    kind = headers["dormouse-event"]
    if not TYPE.fullmatch(kind):
        raise BadEvent("dormouse-event must be 1 to 63 letters, digits and -")
    if request.method != "POST":
        raise BadEvent(f"an event comes by POST, not by {request.method}")
    event = {"type": kind, "time": headers.get("dormouse-event-time", context["time"])}
    if "dormouse-event-name" in headers:
        event["name"] = headers["dormouse-event-name"]
    return {**event, "payload": _payload(request.body, headers), "requestContext": context}


def event_of(call_id: str, request: Request, spec: Spec) -> dict:
    """The event of a request whose body is there; raises BadEvent."""
    headers = _headers(request.headers)
    context = _context(call_id, request, headers, spec)
    if "dormouse-event" in headers:
        return _from_platform(request, headers, context)
    path, query = _target(request.target)
    many: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        many.setdefault(name, []).append(value)
    last = {name: values[-1] for name, values in many.items()}
    text = _text(request.body, headers)
    return {
        "type": "http",
        "httpMethod": request.method,
        "path": path,
        "headers": headers,
        "queryStringParameters": last,
        "multiValueQueryStringParameters": many,
        "queries": json.dumps(last, ensure_ascii=False, separators=(",", ":")),
        "body": base64.b64encode(request.body).decode() if text is None else text,
        "isBase64Encoded": text is None,
        "requestContext": context,
    }
