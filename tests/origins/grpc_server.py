"""An instance that speaks gRPC (h2c), on Python's grpcio. Messages are plain bytes: no code has to be generated."""

import os
import signal
import threading
from concurrent import futures

import grpc


def unary(request, context):
    told = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", "early"),))
    context.set_trailing_metadata((("x-trailing", told.get("x-asked", "none")), ("x-bytes-bin", b"\x00\xff")))
    return request


def server_stream(request, context):
    for i in range(int(request)):
        yield f"message {i}".encode()
    context.set_trailing_metadata((("x-count", request.decode()),))


def client_stream(requests, context):
    return str(sum(len(r) for r in requests)).encode()


def bidi(requests, context):
    for request in requests:
        yield b"re: " + request


def fail(request, context):
    context.set_trailing_metadata((("x-why", "asked"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: ü%")


def half(request, context):
    yield b"half"
    context.abort(grpc.StatusCode.DATA_LOSS, "broke off")


def hang(request, context):
    threading.Event().wait(60)
    return b""


def die(request, context):
    os.kill(os.getpid(), signal.SIGKILL)


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Half": grpc.unary_stream_rpc_method_handler(half),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Die": grpc.unary_unary_rpc_method_handler(die),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.max_receive_message_length", -1)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", METHODS),))
if server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}") == 0:
    raise SystemExit("the port is taken")
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
server.wait_for_termination()
