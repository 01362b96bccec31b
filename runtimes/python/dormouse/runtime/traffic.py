"""The traffic port: a request is made an event, given to the handler, answered."""
import asyncio
import json
from collections.abc import Callable

from . import log
from .calls import Call, Calls, Context
from .event import BadEvent, event_of
from .handler import Handler
from .http1 import Limits, Request, Response, Server
from .result import BODILESS, LENGTHLESS, Answer, InvalidResult, answer_of, bytes_of, type_of
from .spec import Spec
from .user import END, Exited, User

MAX_BODY = 32 * 1024 * 1024
#: What callers are told. The trace and the owner's words are in the log: a caller may be anybody.
WORDS = {
    "HandlerError": (500, "the function failed; its log says more"),
    "InvalidResult": (500, "the function gave no valid result; its log says more"),
    "Exited": (500, "the function ended its process during the call"),
    "BadEvent": (400, "the event is not valid"),
    "BodyTooLarge": (413, "the body is larger than 32 MiB"),
}


def _fail(call: Call, code: str) -> None:
    """Tells the caller as much as can still be told."""
    if call.response.head_sent:
        call.response.abort()
        return
    status, words = WORDS[code]
    body = json.dumps({"error": code, "message": words, "request_id": call.id}).encode() + b"\n"
    call.response.whole(status, [("content-type", "application/json"), ("dormouse-error", code)], body)


class Traffic:
    """Lives on the event loop of the second thread. `exited` is called with the code when user code ends the process."""

    def __init__(self, spec: Spec, handler: Handler, user: User, calls: Calls, exited: Callable[[int], None]):
        self._spec, self._handler, self._user, self._calls, self._exited = spec, handler, user, calls, exited
        self.server = Server(self._serve, Limits(MAX_BODY))

    async def _serve(self, request: Request, response: Response) -> None:
        call = self._calls.begin(request, response)
        # Of this task, which serves this request alone.
        log.current.set(call)
        try:
            if request.is_too_large:
                _fail(call, "BodyTooLarge")
                return
            event = event_of(call.id, request, self._spec)
            self._calls.runs(call)
            await self._answer(call, event)
        except BadEvent as bad:
            self._failed(call, "BadEvent", bad)
        except Exited as exited:
            self._failed(call, "Exited", exited.__cause__ or exited)
            self._exited(exited.status)
        except InvalidResult as bad:
            self._failed(call, "InvalidResult", bad)
        except BaseException as error:
            # A handler may raise whatever there is, CancelledError too; it is the call's failure and nobody else's.
            self._failed(call, "HandlerError", error)
        finally:
            self._calls.end(call)

    def _failed(self, call: Call, code: str, error: BaseException) -> None:
        log.failure(code, error)
        _fail(call, code)

    async def _answer(self, call: Call, event: dict) -> None:
        context = Context(call, self._spec)
        if event["type"] == "warm-up":
            if self._handler.warm_up is not None:
                await self._user.call(self._handler.warm_up, event, context, call.context)
            result = None
        else:
            result = await self._user.call(self._handler.call, event, context, call.context)
        answer = answer_of(result)
        if answer.is_stream:
            await self._stream(call, answer)
        else:
            call.response.whole(answer.status, answer.headers, answer.body, answer.status not in LENGTHLESS)

    async def _stream(self, call: Call, answer: Answer) -> None:
        """Answers with what an iterator gives. Before its first piece everything can still go wrong in order."""
        response, iterator = call.response, answer.body
        piece = None
        try:
            if answer.status in BODILESS:
                response.whole(answer.status, answer.headers, b"", answer.status not in LENGTHLESS)
                return
            if response.is_head:
                response.start(answer.status, answer.headers, has_body=False)
                return
            while not response.is_gone:
                piece = await self._user.next(iterator, call.context)
                if piece is END:
                    break
                data = bytes_of(piece, "a piece of a stream")
                if not response.head_sent:
                    if not answer.has_type:
                        answer.headers.append(("content-type", type_of(piece)))
                    response.start(answer.status, answer.headers)
                await response.piece(data)
            if response.head_sent:
                response.end()
            else:
                response.whole(answer.status, answer.headers, b"")
        finally:
            if piece is not END:
                await self._user.close(iterator, call.context)

    def end(self, code: str) -> None:
        """Answers every call that nobody will answer any more."""
        for call in list(self._calls.open):
            _fail(call, code)

    async def listen(self, host: str | None, port: int) -> None:
        await self.server.listen(host, port)
        # So that the listener takes its first connection in its first turn.
        await asyncio.sleep(0)
