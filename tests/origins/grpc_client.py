"""A gRPC client on Python's grpcio: grpc_client.py ADDRESS AUTHORITY. Prints as JSON what came back."""

import json
import sys
import threading

import grpc

address, authority = sys.argv[1:3]
# Its own retries would hide what is looked for.
OPTIONS = [("grpc.default_authority", authority), ("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
channel = grpc.insecure_channel(address, options=OPTIONS)
LIMIT = 60


def of(kind, method):
    return getattr(channel, kind)(f"/test.Echo/{method}")


def error(call):
    try:
        call()
        return None
    except grpc.RpcError as e:
        why = dict(e.trailing_metadata() or ()).get("x-why")
        return [e.code().name, e.details(), why]


out = {}
unary = of("unary_unary", "Unary")
answer, call = unary.with_call(b"cold", timeout=LIMIT, metadata=(("x-asked", "this"),))
trailing = dict(call.trailing_metadata())
out["unary"] = [answer.decode(), dict(call.initial_metadata()).get("x-initial"), trailing.get("x-trailing")]
out["binary"] = list(trailing.get("x-bytes-bin", b""))
large = bytes(i & 255 for i in range(3_000_000))
out["large"] = unary(large, timeout=LIMIT) == large

stream = of("unary_stream", "ServerStream")(b"200", timeout=LIMIT)
out["server_stream"] = [m.decode() for m in stream] == [f"message {i}" for i in range(200)]
out["server_stream_trailing"] = dict(stream.trailing_metadata()).get("x-count")
out["client_stream"] = of("stream_unary", "ClientStream")(iter([b"x" * 1000] * 300), timeout=LIMIT).decode()

# Each message is sent only when the answer to the one before is there.
turn = threading.Semaphore(1)


def messages():
    for i in range(50):
        turn.acquire(timeout=LIMIT)
        yield f"{i}".encode()


answers = []
for message in of("stream_stream", "Bidi")(messages(), timeout=LIMIT):
    answers.append(message.decode())
    turn.release()
out["bidi"] = answers == [f"re: {i}" for i in range(50)]

out["fail"] = error(lambda: of("unary_unary", "Fail")(b"", timeout=LIMIT))
half = of("unary_stream", "Half")(b"", timeout=LIMIT)
out["half"] = [next(half).decode(), *error(lambda: next(half))[:2]]
out["unknown_method"] = error(lambda: of("unary_unary", "Nothing")(b"", timeout=LIMIT))[0]
out["deadline"] = error(lambda: of("unary_unary", "Hang")(b"", timeout=0.5))[0]

many = [unary.future(f"{i}".encode(), timeout=LIMIT) for i in range(200)]
out["many"] = [f.result().decode() for f in many] == [f"{i}" for i in range(200)]
out["died"] = error(lambda: of("unary_unary", "Die")(b"", timeout=LIMIT))[0]
out["after_death"] = unary(b"again", timeout=LIMIT).decode()

other = grpc.insecure_channel(address, options=[("grpc.default_authority", "nobody.default.localhost"), *OPTIONS[1:]])
out["unknown_function"] = error(lambda: other.unary_unary("/test.Echo/Unary")(b"", timeout=LIMIT))[0]
print(json.dumps(out))
