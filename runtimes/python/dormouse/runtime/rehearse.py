"""What a load and its first call need is imported and set up when it is first used: many milliseconds in all. So a runtime
plays both through before it opens its load port, with a handler and ports of its own."""
import asyncio
import base64
import json
import queue
import shutil
import sys

from . import log
from .calls import Calls
from .door import Door
from .ed25519 import BASE_POINT, PublicKey
from .handler import import_handler
from .traffic import Traffic
from .user import user_of

LOOPBACK = "127.0.0.1"
#: Longest time for a step, each of which takes milliseconds.
LIMIT_S = 5
POD = "rehearsal"
MODULE = "dormouse_rehearsal"
CODE = b"""
def plain(event, context):
    return {"statusCode": 200, "headers": {"a": "b"}, "body": event["body"]}

async def on_loop(event, context):
    return [1]
"""
LOAD = {
    "pod": POD, "function": {"uid": "r", "namespace": "r", "name": "r"}, "revision": "r", "handler": f"{MODULE}.plain",
    "files": {f"{MODULE}.py": base64.b64encode(CODE).decode()}, "env": {"A": "b"},
    "memoryMiB": 1, "timeoutMs": 1000, "concurrency": 1,
}
GET = b"GET /?a=b HTTP/1.1\r\nHost: r\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"


class _Key:
    """Takes this message and no other, whoever else finds the port; a real key's work is done beside it."""

    def __init__(self, message: bytes):
        self._real, self._message = PublicKey(BASE_POINT), message

    def verifies(self, _signature: bytes, message: bytes) -> bool:
        return not self._real.verifies(b"r" * 63 + b"\0", message) and message == self._message


async def _ask(port: int, *requests: bytes) -> bytes:
    """Sends requests, the last of which closes the connection, and reads what comes."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"".join(requests))
    answers = await reader.read(-1)
    writer.close()
    return answers


def _call(loop: asyncio.AbstractEventLoop, folder: str, spec, export: str) -> None:
    """Imports a handler and calls it."""
    own = asyncio.new_event_loop()
    handler = import_handler(folder, f"{MODULE}.{export}")
    sys.path.remove(folder)
    del sys.modules[MODULE]
    user = user_of(handler, loop, own, 1)
    traffic = Traffic(spec, handler, user, Calls(lambda: None), lambda status: None)

    async def play():
        try:
            await traffic.listen(LOOPBACK, 0)
            await asyncio.wait_for(_ask(traffic.server.port, GET, POST % (b"/", 2, b"{}")), LIMIT_S)
        finally:
            traffic.server.stop()
            user.stop()

    played = asyncio.run_coroutine_threadsafe(play(), loop)
    user.serve()
    played.result(LIMIT_S)
    own.close()


def _play(loop: asyncio.AbstractEventLoop) -> None:
    loads: queue.SimpleQueue = queue.SimpleQueue()
    body = json.dumps(LOAD).encode()
    door = Door(_Key(body), POD, lambda spec, folder: loads.put((spec, folder)))
    asyncio.run_coroutine_threadsafe(door.server.listen(LOOPBACK, 0), loop).result(LIMIT_S)
    try:
        asked = asyncio.run_coroutine_threadsafe(_ask(door.server.port, POST % (b"/load", len(body), body)), loop)
        # A load that is refused is answered before it is here.
        asked.add_done_callback(lambda _: loads.put(None))
        loaded = loads.get(timeout=LIMIT_S)
        if loaded is None:
            raise RuntimeError(asked.result())
        _play_with(loop, *loaded)
        loop.call_soon_threadsafe(door.answer, 200, {"initMs": 0})
        asked.result(LIMIT_S)
    finally:
        loop.call_soon_threadsafe(door.server.stop)


def _play_with(loop: asyncio.AbstractEventLoop, spec, folder: str) -> None:
    try:
        for export in ("plain", "on_loop"):
            _call(loop, folder, spec, export)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rehearse(loop: asyncio.AbstractEventLoop) -> None:
    """On the main thread; `loop` is the second one's. One that fails costs the first call some time, and nothing else."""
    try:
        _play(loop)
    except Exception as error:
        log.emit("warn", f"the rehearsal failed: {error!r}")
