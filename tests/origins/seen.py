"""An instance for WSGI servers that writes down what it saw: one JSON line when a request's head has come, and one when
its body has come whole. The file is named by SEEN_LOG."""

import json
import os

KEPT = 200  # bytes of a body that are kept: bodies of tests are shorter


def note(entry):
    with open(os.environ["SEEN_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def app(environ, start_response):
    headers = [
        [key[5:].replace("_", "-").lower(), value]
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    seen = {"method": environ["REQUEST_METHOD"], "target": environ["RAW_URI"], "headers": headers}
    note({"event": "head", **seen})
    body = environ["wsgi.input"].read()
    length = environ.get("CONTENT_LENGTH")
    # WSGI tells no broken body of known length from a whole one; the length does.
    if not length or len(body) == int(length):
        text = body[:KEPT].decode("latin-1")
        note({"event": "whole", **seen, "bytes": len(body), "text": text, "trailers": []})
    start_response("200 OK", [("Content-Length", "2"), ("Content-Type", "text/plain")])
    return [b"ok"]
