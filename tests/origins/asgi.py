"""An instance on uvicorn: HTTP and WebSocket. Says what it saw, or does what `x-do` asks for (see node.mjs)."""

import asyncio
import hashlib
import json
import os
import signal

BLOCK = bytes((i * 31 + (i >> 8)) & 255 for i in range(65536))
count = {"started": 0, "running": 0, "most": 0, "whole": 0, "broken": 0}
waiting = []


class Gone(Exception):
    """The other side broke off."""


async def pause():
    go = asyncio.Event()
    waiting.append(go)
    await go.wait()


async def body_of(receive):
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            count["broken"] += 1
            raise Gone
        more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]
    count["whole"] += 1


async def see(scope, receive):
    digest, size = hashlib.sha256(), 0
    async for chunk in body_of(receive):
        digest.update(chunk)
        size += len(chunk)
    query = scope["query_string"].decode("latin-1")
    return {
        "server": "uvicorn", "pid": os.getpid(), "port": int(os.environ["PORT"]), "connection": scope["client"][1],
        "method": scope["method"], "target": scope["raw_path"].decode("latin-1") + (f"?{query}" if query else ""),
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
        "bytes": size, "sha256": digest.hexdigest(),
    }


class Answer:
    def __init__(self, send):
        self.send = send

    async def head(self, status=200, *headers):
        pairs = [(k.encode(), str(v).encode()) for k, v in headers]
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})

    async def some(self, body, more=True):
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def json(self, value):
        text = json.dumps(value).encode()
        await self.head(200, ("content-type", "application/json"), ("content-length", len(text)))
        await self.some(text, more=False)


async def down(request, receive, out):
    size = int(request["x-bytes"])
    await out.head(200, *([] if "x-chunked" in request else [("content-length", size)]))
    for at in range(0, size, len(BLOCK)):
        await out.some(BLOCK[: size - at])
    await out.some(b"", more=False)


async def chunks(request, receive, out):
    await out.head()
    for i in range(int(request["x-count"])):
        await out.some(f"chunk {i}\n".encode())
    await out.some(b"", more=False)


async def early(request, receive, out):
    await out.head(403, ("content-length", 5))
    await out.some(b"early", more=False)


async def mirror(request, receive, out):
    await out.head()
    async for chunk in body_of(receive):
        await out.some(chunk)
    await out.some(b"", more=False)


async def events(request, receive, out):
    await out.head(200, ("content-type", "text/event-stream"))
    for i in range(int(request["x-count"])):
        await out.some(f"id: {i}\ndata: event {i}\n\n".encode())
        await pause()
    await out.some(b"", more=False)


async def status(request, receive, out):
    cookies = [("set-cookie", v) for v in ("a=1", "b=2", "a=3")]
    await out.head(int(request["x-status"]), ("etag", '"one"'), *cookies)
    await out.some(b"", more=False)


async def half(request, receive, out):
    sized = [] if "x-chunked" in request else [("content-length", 1000)]
    await out.head(200, *sized, ("x-pid", os.getpid()))
    await out.some(b"half")
    await pause()


async def release(request, receive, out):
    go = waiting.pop(0) if waiting else None
    if go:
        go.set()
    await out.json({"released": go is not None})


DO = {f.__name__: f for f in (down, chunks, early, mirror, events, status, half)}


async def http(scope, receive, send):
    request = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
    word, out = request.get("x-do"), Answer(send)
    if word == "count":
        return await out.json(count)
    if word == "next":
        return await release(request, receive, out)
    count["started"] += 1
    count["running"] += 1
    count["most"] = max(count["most"], count["running"])
    try:
        if word == "hold":
            await pause()
        if word in (None, "hold"):
            await out.json(await see(scope, receive))
        elif word in DO:
            await DO[word](request, receive, out)
        else:
            await out.head(501, ("content-length", 0))
            await out.some(b"", more=False)
    except Gone:
        pass
    finally:
        count["running"] -= 1


async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "headers":
            pairs = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            await send({"type": "websocket.send", "text": json.dumps(pairs)})
        elif text == "close":
            return await send({"type": "websocket.close", "code": 4001, "reason": "asked to"})
        elif text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        # Startup, then shutdown.
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)
