"""An instance on gunicorn. Says what it saw, or does what the header `x-do` asks for (see node.mjs)."""

import hashlib
import json
import os
import threading

BLOCK = bytes((i * 31 + (i >> 8)) & 255 for i in range(65536))
lock = threading.Lock()
count = {"started": 0, "running": 0, "most": 0, "whole": 0, "broken": 0}
waiting = []


def pause():
    go = threading.Event()
    with lock:
        waiting.append(go)
    go.wait(60)


def see(environ):
    digest, size = hashlib.sha256(), 0
    while chunk := environ["wsgi.input"].read(65536):
        digest.update(chunk)
        size += len(chunk)
    with lock:
        count["whole"] += 1
    headers = [[k[5:].replace("_", "-").lower(), v] for k, v in environ.items() if k.startswith("HTTP_")]
    # WSGI has these two by other names.
    headers += [[k.replace("_", "-").lower(), environ[k]] for k in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(k)]
    return {
        "server": "gunicorn", "pid": os.getpid(), "port": int(os.environ["PORT"]),
        "connection": int(environ["REMOTE_PORT"]), "method": environ["REQUEST_METHOD"], "target": environ["RAW_URI"],
        "headers": headers, "bytes": size, "sha256": digest.hexdigest(),
    }


def blocks(size):
    while size > 0:
        yield BLOCK[:size]
        size -= len(BLOCK)


def events(n):
    for i in range(n):
        yield f"id: {i}\ndata: event {i}\n\n".encode()
        pause()


def half():
    yield b"half"
    pause()


def answer(environ):
    """Status, headers, body."""
    word, n = environ.get("HTTP_X_DO"), int(environ.get("HTTP_X_COUNT", 0))
    if word == "down":
        size = int(environ["HTTP_X_BYTES"])
        sized = [] if "HTTP_X_CHUNKED" in environ else [("content-length", str(size))]
        return "200 OK", sized, blocks(size)
    if word == "chunks":
        return "200 OK", [], (f"chunk {i}\n".encode() for i in range(n))
    if word == "early":
        return "403 Forbidden", [("content-length", "5")], [b"early"]
    if word == "events":
        return "200 OK", [("content-type", "text/event-stream")], events(n)
    if word == "status":
        cookies = [("set-cookie", v) for v in ("a=1", "b=2", "a=3")]
        return environ["HTTP_X_STATUS"] + " Asked", [("etag", '"one"'), *cookies], []
    if word == "half":
        sized = [] if "HTTP_X_CHUNKED" in environ else [("content-length", "1000")]
        return "200 OK", [*sized, ("x-pid", str(os.getpid()))], half()
    if word == "hold":
        pause()
        word = None
    if word == "next":
        with lock:
            go = waiting.pop(0) if waiting else None
        if go:
            go.set()
        value = {"released": go is not None}
    elif word == "count":
        value = count
    elif word is None:
        value = see(environ)
    else:
        return "501 Not Implemented", [("content-length", "0")], []
    text = json.dumps(value).encode()
    return "200 OK", [("content-type", "application/json"), ("content-length", str(len(text)))], [text]


class Counted:
    """Counts a request as running until its body is over."""

    def __init__(self, body):
        self.body = body

    def __iter__(self):
        return iter(self.body)

    def close(self):
        with lock:
            count["running"] -= 1
        if hasattr(self.body, "close"):
            self.body.close()


def app(environ, start_response):
    counted = environ.get("HTTP_X_DO") not in ("next", "count")
    if counted:
        with lock:
            count["started"] += 1
            count["running"] += 1
            count["most"] = max(count["most"], count["running"])
    try:
        status, headers, body = answer(environ)
    except Exception:
        # The request's body broke off.
        with lock:
            count["broken"] += 1
            count["running"] -= 1
        raise
    start_response(status, headers)
    return Counted(body) if counted else body
