"""The HTTP/1.1 server: the same requests however their bytes are cut, and what is no request."""
import asyncio
import unittest

from dormouse.runtime.http1 import MAX_AHEAD, Connection, Limits, Server


class Peer(asyncio.Transport):
    """The other end of a connection: keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written, self.is_closed, self.is_reading = b"", False, True

    def write(self, data):
        self.written += data

    def close(self):
        self.is_closed = True

    abort = close

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def get_extra_info(self, name, default=None):
        return ("::ffff:1.2.3.4", 5) if name == "peername" else default


async def exchange(pieces: list[bytes], body_limit: int = 100) -> tuple[list, Peer]:
    """What a server saw of these pieces of a connection, and what it wrote."""
    seen = []

    async def serve(request, response):
        seen.append((request.method, request.target, request.body, request.is_too_large, request.peer))
        response.whole(200, [], request.body)

    peer = Peer()
    connection = Connection(Server(serve, Limits(body_limit)))
    connection.connection_made(peer)
    for piece in pieces:
        if not peer.is_closed:
            connection.data_received(piece)
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return seen, peer


REQUESTS = (
    b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
    b"\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n02\r\nde\r\n0\r\nx: y\r\n\r\n"
    b"POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n" + b"y" * 101 +
    b"POST /f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + b"y" * 64 + b"\r\n40\r\n" + b"y" * 64 + b"\r\n0\r\n\r\n"
    b"GET /g HTTP/1.0\r\n\r\n"
)
SEEN = [
    ("GET", "/a?b", b"", False, "1.2.3.4"), ("POST", "/b", b"hello", False, "1.2.3.4"), ("POST", "/c", b"abcde", False, "1.2.3.4"),
    ("POST", "/d", b"", False, "1.2.3.4"), ("POST", "/e", b"", True, "1.2.3.4"), ("POST", "/f", b"", True, "1.2.3.4"),
    ("GET", "/g", b"", False, "1.2.3.4"),
]


class Http1(unittest.IsolatedAsyncioTestCase):
    async def test_requests_are_the_same_however_they_are_cut(self):
        for size in (1, 2, 3, 7, 50, len(REQUESTS)):
            pieces = [REQUESTS[i:i + size] for i in range(0, len(REQUESTS), size)]
            seen, peer = await exchange(pieces)
            self.assertEqual(seen, SEEN, size)
            self.assertEqual(peer.written.count(b"HTTP/1.1 200 OK\r\n"), len(SEEN))
            self.assertTrue(peer.is_closed, "HTTP/1.0 keeps no connection")

    async def test_what_is_no_request_is_refused_and_the_connection_ends(self):
        host = b"Host: x\r\n"
        for bad in (
            b"GET  / HTTP/1.1\r\n" + host, b"GET / HTTP/2.0\r\n" + host, b"G@T / HTTP/1.1\r\n" + host, b"GET /\0 HTTP/1.1\r\n" + host,
            b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n" + host + host, b"GET / HTTP/1.1\r\n" + host + b" folded: x\r\n",
            b"GET / HTTP/1.1\r\n" + host + b"a : b\r\n", b"GET / HTTP/1.1\r\n" + host + b"a: b\rc\r\n", b"GET / HTTP/1.1\r\n" + host + b"a\r\n",
            b"GET / HTTP/1.1\r\n" + host + b"a: b\nc: d\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 1, 1\r\n", b"POST / HTTP/1.1\r\n" + host + b"Content-Length: +1\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: gzip, chunked\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        ):
            seen, peer = await exchange([bad + b"\r\nabc"])
            self.assertEqual(seen, [], bad)
            self.assertTrue(peer.written.startswith(b"HTTP/1.1 400 Bad Request\r\n"), (bad, peer.written))
            self.assertTrue(peer.is_closed, bad)

    async def test_chunks_are_what_they_say(self):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for bad in (b"x\r\n", b"-1\r\n", b"1\r\nabc", b"123456789\r\n", b"0x1\r\n", b"a" * 5000):
            seen, peer = await exchange([head + bad])
            self.assertEqual((seen, peer.written[:12]), ([], b"HTTP/1.1 400"), bad)

    async def test_a_client_that_asks_is_told_to_go_on(self):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        seen, peer = await exchange([head % 2, b"ab"])
        self.assertTrue(peer.written.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), peer.written)
        seen, peer = await exchange([head % 200])
        self.assertEqual([(target, too_large) for _, target, _, too_large, _ in seen], [("/", True)], "answered without its body")
        self.assertTrue(peer.written.startswith(b"HTTP/1.1 200 OK") and b"\r\nconnection: close\r\n" in peer.written, peer.written)
        self.assertTrue(peer.is_closed, "nobody knows whether the body comes")

    async def test_a_client_that_sends_ahead_is_not_read(self):
        async def serve(request, response):
            await asyncio.Event().wait()

        peer = Peer()
        connection = Connection(Server(serve, Limits(100)))
        connection.connection_made(peer)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * (MAX_AHEAD - 100))
        self.assertTrue(peer.is_reading)
        connection.data_received(b"x" * 200)
        self.assertFalse(peer.is_reading)
        connection.connection_lost(None)

    async def test_a_server_that_stops_answers_what_has_begun_to_come(self):
        whole = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        for cut in range(len(whole) + 1):
            closed, seen = [], []

            async def serve(request, response):
                seen.append(request.body)
                response.whole(200, [], b"")

            server, peer = Server(serve, Limits(100)), Peer()
            connection = Connection(server)
            connection.connection_made(peer)
            if cut:
                connection.data_received(whole[:cut])
            server.stop(lambda: closed.append(True))
            self.assertEqual(peer.is_closed, cut == 0, cut)
            if cut:
                connection.data_received(whole[cut:])
                for _ in range(5):
                    await asyncio.sleep(0)
                self.assertEqual(seen, [b"hello"], cut)
                self.assertIn(b"\r\nconnection: close\r\n", peer.written, cut)
            self.assertTrue(peer.is_closed, cut)
            self.assertEqual(closed, [], "what was written has not left yet")
            connection.connection_lost(None)
            self.assertEqual(closed, [True], cut)

    async def test_a_server_that_stops_within_an_answer_closes_after_it(self):
        go = asyncio.Event()

        async def serve(request, response):
            response.start(200, [])
            await go.wait()
            response.end()

        server, peer = Server(serve, Limits(100)), Peer()
        connection = Connection(server)
        connection.connection_made(peer)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0)
        self.assertIn(b"keep-alive", peer.written, "it was said before")
        server.stop(lambda: None)
        self.assertFalse(peer.is_closed)
        go.set()
        for _ in range(5):
            await asyncio.sleep(0)
        self.assertTrue(peer.written.endswith(b"0\r\n\r\n") and peer.is_closed, peer.written)
