"""An HTTP/1.1 server on asyncio: requests of a connection one after the other, each read whole before it is served."""
import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

#: An activator closes connections that idled for 60 s: so it is the one who closes.
KEEP_ALIVE_S = 75
#: An activator's largest head (128 KiB), and half as much for what it adds.
MAX_HEAD = 192 * 1024
#: Bytes of the next request that are taken while one is served; what the kernel holds besides is its own affair.
MAX_AHEAD = 64 * 1024
#: The longest line before a chunk: a size and extensions that nobody uses.
MAX_CHUNK_LINE = 4096
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(;.*)?")
BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Malformed(Exception):
    """Bytes that are no request; the connection ends with the answer."""

    def __init__(self, message: str, status: int = 400, code: str = "BadRequest"):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Request:
    """A request. Names of headers are in lower case, repeated ones as they came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    #: Its body was larger than what is taken: it was dropped.
    is_too_large: bool
    keeps_alive: bool
    is_1_1: bool
    peer: str

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for n, value in self.headers if n == name), None)


@dataclass
class Limits:
    """What a server takes: bytes of a body, seconds for it (none: whoever forwards counts the time), and connections at
    once (none: whoever forwards counts them)."""

    body: int
    body_s: float | None = None
    connections: int | None = None


class Response:
    """The answer to one request. Nothing is written once the caller has left."""

    def __init__(self, connection: "Connection", request: Request):
        self._connection, self._request = connection, request
        self.head_sent = False
        self._is_chunked = False

    @property
    def is_gone(self) -> bool:
        """Whether the caller has left."""
        return self._connection.is_closed

    @property
    def is_head(self) -> bool:
        return self._request.method == "HEAD"

    def _head(self, status: int, headers: list[tuple[str, str]]) -> bytes:
        connection = self._connection
        keeps = self._request.keeps_alive and not connection.server.is_stopping and connection.keeps_alive
        connection.keeps_alive = keeps
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}", *(f"{name}: {value}" for name, value in headers)]
        if not any(name.lower() == "date" for name, _ in headers):
            lines.append(f"date: {formatdate(usegmt=True)}")
        lines.append(f"connection: keep-alive\r\nkeep-alive: timeout={KEEP_ALIVE_S}" if keeps else "connection: close")
        self.head_sent = True
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")

    def whole(self, status: int, headers: list[tuple[str, str]], body: bytes, has_length: bool = True) -> None:
        """Answers with a whole body; `has_length` is false where there is none by the status."""
        if has_length:
            headers = [*headers, ("content-length", str(len(body)))]
        head = self._head(status, headers)
        self._connection.write(head if self.is_head or not has_length else head + body)

    def start(self, status: int, headers: list[tuple[str, str]], has_body: bool = True) -> None:
        """Begins an answer of unknown length. An HTTP/1.0 caller has its end with the connection's."""
        if not has_body:
            self._connection.write(self._head(status, headers))
            return
        self._is_chunked = self._request.is_1_1
        if self._is_chunked:
            headers = [*headers, ("transfer-encoding", "chunked")]
        else:
            self._connection.keeps_alive = False
        self._connection.write(self._head(status, headers))

    async def piece(self, data: bytes) -> None:
        """Writes a piece, and waits while the caller does not read."""
        if data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
            await self._connection.writable()

    def end(self) -> None:
        """Ends an answer of unknown length."""
        if self._is_chunked:
            self._connection.write(b"0\r\n\r\n")

    def abort(self) -> None:
        """Breaks the connection off, so that nobody takes what was written for the whole."""
        self._connection.abort()


class Server:
    """What its connections share."""

    def __init__(self, serve: Callable[[Request, Response], Awaitable[None]], limits: Limits):
        self.serve, self.limits = serve, limits
        self.connections: set[Connection] = set()
        self.is_stopping = False
        self._when_closed: Callable[[], None] | None = None
        self._listeners: list[asyncio.Server] = []

    async def listen(self, host: str | None, port: int, backlog: int = 1024) -> None:
        """Opens a port: on one address, or on every one of both families where there are both."""
        loop = asyncio.get_running_loop()
        sock = None if host else _everywhere(port)
        where = {"sock": sock} if sock else {"host": host or "0.0.0.0", "port": port}
        self._listeners.append(await loop.create_server(lambda: Connection(self), **where, backlog=backlog))

    @property
    def port(self) -> int:
        """The port that is open."""
        return self._listeners[0].sockets[0].getsockname()[1]

    def stop(self, closed: Callable[[], None] = lambda: None) -> None:
        """No new connections; those to which nothing of a request has come are closed, the others after their answer.
        `closed` is called once none is left: then all that was written has left."""
        self.is_stopping, self._when_closed = True, closed
        for listener in self._listeners:
            listener.close()
        for connection in [c for c in self.connections if c.is_idle]:
            connection.close()
        self._settle()

    def lost(self, connection: "Connection") -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self._settle()

    def _settle(self) -> None:
        if self._when_closed is not None and not self.connections:
            closed, self._when_closed = self._when_closed, None
            closed()


class Connection(asyncio.Protocol):
    """A connection, and the request that is read from it."""

    def __init__(self, server: Server):
        self.server = server
        self.is_closed = self.is_busy = False
        self.keeps_alive = True
        self._buffer = bytearray()
        self._searched = 0
        self._head: Request | None = None
        # Which part of the body is to come ("whole", or of chunks "size", "data", "end", "trailers"), and bytes of it.
        self._part, self._left = "whole", 0
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._tasks: set[asyncio.Task] = set()

    def connection_made(self, transport):
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.server.connections.add(self)
        name = transport.get_extra_info("peername")
        # A socket for both families writes IPv4 so.
        self._peer = name[0].removeprefix("::ffff:") if name else ""
        most = self.server.limits.connections
        # One that was accepted just before a stop would hold it up until its client has something to say.
        if self.server.is_stopping or (most is not None and len(self.server.connections) > most):
            self.abort()
        else:
            self._await_request()

    def connection_lost(self, error):
        self.is_closed = True
        self._stop_timer()
        self._writable.set()
        self.server.lost(self)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request has come that is not answered."""
        return not self.is_busy and self._head is None and not self._buffer

    def pause_writing(self):
        self._writable.clear()

    def resume_writing(self):
        self._writable.set()

    async def writable(self) -> None:
        await self._writable.wait()

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self.keeps_alive = False
        self._transport.abort()

    def data_received(self, data):
        self._buffer += data
        if not self.is_busy:
            self._advance()
        elif len(self._buffer) > MAX_AHEAD:
            self._transport.pause_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_request(self) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(KEEP_ALIVE_S, self.close)

    def _advance(self) -> None:
        try:
            if self._head is None and not self._take_head():
                return
            if self._take_body():
                self._serve()
        except Malformed as bad:
            self._refuse(bad)

    def _refuse(self, bad: Malformed) -> None:
        self.keeps_alive, self.is_busy = False, True
        body = json.dumps({"error": bad.code, "message": str(bad)}).encode() + b"\n"
        response = Response(self, Request("GET", "/", [], b"", False, False, True, self._peer))
        response.whole(bad.status, [("content-type", "application/json"), ("dormouse-error", bad.code)], body)
        self.close()

    def _take_head(self) -> bool:
        # Empty lines before a request are passed over (RFC 9112 2.2).
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", self._searched, MAX_HEAD + 4)
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise Malformed("the head is too large", 431)
            # A head that comes byte by byte is not searched from its beginning each time.
            self._searched = max(0, len(self._buffer) - 3)
            return False
        self._searched = 0
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[:end + 4]
        self._head = _parsed(lines, self._peer)
        self._frame(self._head)
        return True

    def _frame(self, head: Request) -> None:
        """Where the body ends (RFC 9112 6.3); two words on it are none."""
        codings = [value for name, value in head.headers if name == "transfer-encoding"]
        lengths = {value for name, value in head.headers if name == "content-length"}
        if codings and (lengths or not head.is_1_1 or [c.lower() for c in codings] != ["chunked"]):
            raise Malformed("the body's length is not clear")
        if len(lengths) > 1 or not all(length.isascii() and length.isdigit() and len(length) < 16 for length in lengths):
            raise Malformed("the body's length is not clear")
        self._part = "size" if codings else "whole"
        self._left = int(next(iter(lengths), "0"))
        head.is_too_large = self._left > self.server.limits.body
        if codings or self._left:
            if self.server.limits.body_s is not None:
                self._stop_timer()
                self._timer = self._loop.call_later(self.server.limits.body_s, self._slow)
            elif self._timer is not None:
                self._stop_timer()
            if (head.header("expect") or "").lower() == "100-continue":
                self._expected(head)

    def _expected(self, head: Request) -> None:
        """Asks for the body. One that is too large is answered without it, and then nobody knows what comes."""
        if head.is_too_large:
            head.keeps_alive, self._part, self._left = False, "whole", 0
        else:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _slow(self) -> None:
        if not self.is_busy:
            self._refuse(Malformed(f"the body did not come within {self.server.limits.body_s} s", 408, "RequestTimeout"))

    def _take_body(self) -> bool:
        """True when it is there."""
        if self._part == "whole":
            return self._take()
        while self._part != "trailers":
            if not {"size": self._take_size, "data": self._take, "end": self._take_line_end}[self._part]():
                return False
            if self._part == "size":
                self._part = "data" if self._left else "trailers"
            else:
                self._part = "end" if self._part == "data" else "size"
        return self._take_trailers()

    def _take(self) -> bool:
        piece = self._buffer[:self._left]
        del self._buffer[:len(piece)]
        if len(self._body) + len(piece) > self.server.limits.body:
            self._head.is_too_large = True
            self._body.clear()
        if not self._head.is_too_large:
            self._body += piece
        self._left -= len(piece)
        return self._left == 0

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, MAX_CHUNK_LINE)
        if end < 0:
            if len(self._buffer) >= MAX_CHUNK_LINE:
                raise Malformed("a line of the body is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[:end + 2]
        return line

    def _take_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        match = CHUNK.fullmatch(line)
        if match is None:
            raise Malformed("a chunk has no size")
        self._left = int(match[1], 16)
        return True

    def _take_line_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise Malformed("a chunk is longer than it says")
        del self._buffer[:2]
        return True

    def _take_trailers(self) -> bool:
        # Read and dropped: an event has no place for them.
        while (line := self._line()) is not None:
            if not line:
                return True
        return False

    def _serve(self) -> None:
        request, self._head = self._head, None
        request.body, self._body = bytes(self._body), bytearray()
        self.is_busy = True
        self._stop_timer()
        task = self._loop.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request) -> None:
        response = Response(self, request)
        try:
            await self.server.serve(request, response)
        finally:
            if not response.head_sent:
                self.abort()
            self._next()

    def _next(self) -> None:
        if self.is_closed:
            return
        self.is_busy = False
        # The server may have begun to stop after this answer's head.
        if not self.keeps_alive or (self.server.is_stopping and self.is_idle):
            self.close()
            return
        self._transport.resume_reading()
        self._await_request()
        if self._buffer:
            self._advance()


def _everywhere(port: int) -> socket.socket | None:
    """A socket on every address of both families; none where there is no IPv6."""
    if not socket.has_dualstack_ipv6():
        return None
    return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)


def _parsed(lines: list[bytes], peer: str) -> Request:
    match = REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise Malformed("this is no HTTP/1.1 request")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name) or BAD_VALUE.search(value):
            raise Malformed("a header is none")
        headers.append((name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")))
    is_1_1 = match[3] == b"1"
    if is_1_1 and sum(name == "host" for name, _ in headers) != 1:
        raise Malformed("a request has one Host")
    options = {o.strip().lower() for name, value in headers if name == "connection" for o in value.split(",")}
    keeps_alive = "close" not in options and (is_1_1 or "keep-alive" in options)
    target = match[2].decode("utf-8", "replace")
    return Request(match[1].decode("ascii"), target, headers, b"", False, keeps_alive, is_1_1, peer)
