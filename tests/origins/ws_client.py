"""A WebSocket client on Python's `websockets`: ws_client.py URL IDLE_SECONDS. Prints as JSON what came back."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def ask(socket, data):
    await socket.send(data)
    return await socket.recv()


async def end(socket):
    """The close code and reason that came; 1006 when none did."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        return [closed.rcvd.code, closed.rcvd.reason] if closed.rcvd else [1006, ""]


async def main(url, idle):
    # Its own pings would end what is meant to be idle.
    open_one = lambda: connect(url, ping_interval=None, max_size=None)
    out = {}
    first = await open_one()
    out["text"] = await ask(first, "grüße")
    data = bytes(i & 255 for i in range(200000))
    out["binary"] = await ask(first, data) == data
    await asyncio.wait_for(await first.ping("still there?"), 60)
    out["pong"] = "still there?"
    out["many"] = all([await ask(first, f"message {i}") == f"message {i}" for i in range(200)])
    await asyncio.sleep(idle)
    out["after_idle"] = await ask(first, "awake")
    out["headers"] = json.loads(await ask(first, "headers"))
    await first.send("close")
    out["closed_by_server"] = await end(first)
    second = await open_one()
    await second.close(4002, "bye")
    out["closed_by_client"] = second.close_code
    third = await open_one()
    await third.send("die")
    out["died"] = (await end(third))[0]
    print(json.dumps(out))


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
