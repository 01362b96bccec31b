"""A handler's result made into an answer."""
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Headers of the connection, which is not the function's, and the length, which is counted.
NOT_SETTABLE = frozenset(("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te",
                          "trailer", "transfer-encoding", "upgrade", "http2-settings", "content-length"))
BODILESS = (204, 205, 304)
#: Of those, which a caller knows to have no body (RFC 9112 6.3); a 205 has to say so.
LENGTHLESS = (204, 304)
OCTETS = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
BYTES = (bytes, bytearray, memoryview)


class InvalidResult(Exception):
    """A result that is none."""


@dataclass
class Answer:
    """What a caller gets. The body is bytes or an iterator, sync or async; a stream may have no type yet."""

    status: int
    headers: list[tuple[str, str]]
    body: object

    @property
    def is_stream(self) -> bool:
        return not isinstance(self.body, bytes)

    @property
    def has_type(self) -> bool:
        return any(name.lower() == "content-type" for name, _ in self.headers)


def bytes_of(value: object, what: str) -> bytes:
    """Bytes of a body or of one piece of a stream."""
    if isinstance(value, str):
        return _encoded(value, what)
    if isinstance(value, BYTES):
        return bytes(value)
    raise InvalidResult(f"{what} must be text or bytes, not {_kind(value)}")


def type_of(piece: object) -> str:
    """The type of a stream without one, by its first piece."""
    return TEXT if isinstance(piece, str) else OCTETS


def _encoded(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidResult(f"{what} is no Unicode text: {error}") from None


def _kind(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _is_iterator(value: object) -> bool:
    return isinstance(value, (Iterator, AsyncIterator))


def _add_headers(pairs: list, headers: object, field: str, is_many: bool) -> None:
    if headers is None:
        return
    if not isinstance(headers, Mapping):
        raise InvalidResult(f"{field} must be a dict, not {_kind(headers)}")
    for name, value in headers.items():
        if value is None:
            continue
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise InvalidResult(f"{field}: {name!r} is no name of a header")
        is_list = isinstance(value, (list, tuple))
        if is_many and not is_list:
            raise InvalidResult(f"{field}: {name} must be a list")
        for one in value if is_list else (value,):
            _add_header(pairs, name, one, field)


def _add_header(pairs: list, name: str, value: object, field: str) -> None:
    if not isinstance(value, (str, int, float)):
        raise InvalidResult(f"{field}: {name} must be text, a number or a boolean, not {_kind(value)}")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not VALUE.fullmatch(text):
        raise InvalidResult(f"{field}: {name} has a character that no header may have")
    lower = name.lower()
    if lower in NOT_SETTABLE or lower.startswith("dormouse-"):
        return
    # What stands in both lists of headers is said once.
    if not any(n.lower() == lower and v == text for n, v in pairs):
        pairs.append((name, text))


def _body(result: Mapping) -> tuple[object, str | None]:
    body, is_base64 = result.get("body"), result.get("isBase64Encoded", False)
    if not isinstance(is_base64, bool):
        raise InvalidResult("isBase64Encoded must be True or False")
    if body is None:
        return b"", None
    if is_base64:
        if not isinstance(body, str):
            raise InvalidResult(f"body must be base64 text, as isBase64Encoded says, not {_kind(body)}")
        try:
            return base64.b64decode(body, validate=True), OCTETS
        except ValueError as error:
            raise InvalidResult(f"body is not base64, as isBase64Encoded says: {error}") from None
    if isinstance(body, str):
        return _encoded(body, "body"), TEXT
    if isinstance(body, BYTES):
        return bytes(body), OCTETS
    if _is_iterator(body):
        return body, None
    raise InvalidResult(f"body must be text, bytes or an iterator, not {_kind(body)}: use json.dumps")


def _http(result: Mapping) -> Answer:
    status = result["statusCode"]
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise InvalidResult(f"statusCode must be a whole number from 200 to 599, not {status!r}")
    headers: list[tuple[str, str]] = []
    _add_headers(headers, result.get("headers"), "headers", False)
    _add_headers(headers, result.get("multiValueHeaders"), "multiValueHeaders", True)
    body, default = _body(result)
    # Not as an enumeration, which may print as a name.
    answer = Answer(int(status), headers, body)
    if default is not None and not answer.has_type:
        headers.append(("content-type", default))
    if status in BODILESS and not answer.is_stream:
        answer.body = b""
    return answer


def answer_of(result: object) -> Answer:
    """The answer that a result stands for; raises InvalidResult."""
    if result is None:
        return Answer(204, [], b"")
    if isinstance(result, Mapping) and "statusCode" in result:
        return _http(result)
    if isinstance(result, BYTES):
        return Answer(200, [("content-type", OCTETS)], bytes(result))
    if _is_iterator(result):
        return Answer(200, [], result)
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidResult(f"the result cannot be written as JSON: {error}") from None
    return Answer(200, [("content-type", "application/json")], _encoded(text, "the result"))
