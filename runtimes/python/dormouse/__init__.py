"""What a handler gets: `handler(event, context)`. Types to annotate handlers with; nothing here needs to be imported.

    from dormouse import Context, HttpEvent, HttpResult

    def handler(event: HttpEvent, context: Context) -> HttpResult:
        return {"statusCode": 200, "body": f"hello {event['path']}"}
"""
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

__all__ = ["Context", "HttpEvent", "HttpResult", "Logger", "PlatformEvent", "RequestContext"]


class Function(TypedDict):
    """Which function was called."""

    namespace: str
    name: str
    revision: str


class RequestContext(TypedDict):
    """Who called, and what."""

    requestId: str
    sourceIp: str
    #: When the call came, RFC 3339.
    time: str
    function: Function
    #: The part of the path that the platform took off.
    prefix: NotRequired[str]
    #: W3C trace context.
    traceparent: NotRequired[str]


class HttpEvent(TypedDict):
    """A call by HTTP."""

    type: str
    httpMethod: str
    #: As it was sent, without the query.
    path: str
    #: Names in lower case; repeated ones joined by ", ", cookies by "; ".
    headers: dict[str, str]
    #: The last value of each name.
    queryStringParameters: dict[str, str]
    multiValueQueryStringParameters: dict[str, list[str]]
    #: queryStringParameters as JSON text.
    queries: str
    #: Text, or base64 of bytes; "" without one.
    body: str
    isBase64Encoded: bool
    requestContext: RequestContext


class PlatformEvent(TypedDict):
    """An event that the platform made: a schedule's, a warm-up."""

    type: str
    #: When it was due, RFC 3339.
    time: str
    #: Which schedule made it.
    name: NotRequired[str]
    #: JSON, text or None.
    payload: Any
    requestContext: RequestContext


#: What a header may be given as.
HeaderValue = str | int | float | bool


class HttpResult(TypedDict):
    """An answer by HTTP. Any other value than one with a statusCode is answered as JSON, None by 204."""

    statusCode: int
    headers: NotRequired[Mapping[str, HeaderValue | Sequence[HeaderValue]]]
    multiValueHeaders: NotRequired[Mapping[str, Sequence[HeaderValue]]]
    body: NotRequired[str | bytes | Iterator[str | bytes] | AsyncIterator[str | bytes] | None]
    isBase64Encoded: NotRequired[bool]


class Logger(Protocol):
    """Writes lines of the log. `args` are put into the message by %, `fields` become fields of the line."""

    def debug(self, message: object, /, *args: object, **fields: object) -> None: ...
    def info(self, message: object, /, *args: object, **fields: object) -> None: ...
    def warn(self, message: object, /, *args: object, **fields: object) -> None: ...
    def warning(self, message: object, /, *args: object, **fields: object) -> None: ...
    def error(self, message: object, /, *args: object, **fields: object) -> None: ...


class Context(Protocol):
    """What a handler is told of its call. Each name is there in camel case too, as in other languages."""

    @property
    def request_id(self) -> str: ...
    @property
    def requestId(self) -> str: ...
    @property
    def function_name(self) -> str: ...
    @property
    def functionName(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def memory_limit_in_mb(self) -> int: ...
    @property
    def memoryLimitInMB(self) -> int: ...
    @property
    def deadline(self) -> int:
        """When the call's time is over: milliseconds since 1970."""
        ...
    @property
    def logger(self) -> Logger: ...
    def get_remaining_time_in_millis(self) -> int: ...
    def getRemainingTimeInMillis(self) -> int: ...
