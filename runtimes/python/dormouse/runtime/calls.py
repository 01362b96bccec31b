"""The calls in flight: who is answered when the process cannot go on, what the watch looks at, when everything is done.
Used on the event loop of the second thread only."""
import contextvars
import time
import uuid
from collections.abc import Callable

from . import log
from .http1 import Request, Response
from .spec import Spec


class Call:
    """One call, as the log knows it."""

    def __init__(self, request: Request, response: Response):
        self.id = request.header("dormouse-request-id") or str(uuid.uuid4())
        self.response = response
        #: Milliseconds since 1970.
        self.began = time.time_ns() // 1_000_000
        #: What it printed without a line's end yet, by level.
        self.partials: dict[str, str] = {}
        #: The context that its code runs in, step by step; in one thread at a time, which is never the second.
        self.context = contextvars.copy_context()
        self.context.run(log.current.set, self)


class Context:
    """What a handler is told of its call."""

    __slots__ = ("deadline", "function_name", "logger", "memory_limit_in_mb", "namespace", "request_id", "revision")

    def __init__(self, call: Call, spec: Spec):
        self.request_id, self.deadline = call.id, call.began + spec.timeout_ms
        self.function_name, self.namespace, self.revision = spec.name, spec.namespace, spec.revision
        self.memory_limit_in_mb = spec.memory_mib
        self.logger = log.Logger()

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the deadline; 0 after it."""
        return max(0, self.deadline - time.time_ns() // 1_000_000)

    getRemainingTimeInMillis = get_remaining_time_in_millis
    requestId = property(lambda self: self.request_id)
    functionName = property(lambda self: self.function_name)
    memoryLimitInMB = property(lambda self: self.memory_limit_in_mb)


class Calls:
    """All calls of this process. `woke` is called when there is something to look at again."""

    def __init__(self, woke: Callable[[], None]):
        self._woke = woke
        #: Calls whose code runs, with the second of the monotonic clock in which it began; oldest first.
        self.running: dict[Call, float] = {}
        #: Calls whose answer has not left.
        self.open: set[Call] = set()
        self._when_drained: Callable[[], None] | None = None

    def begin(self, request: Request, response: Response) -> Call:
        call = Call(request, response)
        self.open.add(call)
        return call

    def runs(self, call: Call) -> None:
        """Its code begins. It goes on when the caller has left: that says nothing of what is to do."""
        self.running[call] = time.monotonic()
        self._woke()

    def end(self, call: Call) -> None:
        """Its code has ended, and its answer is written. In a context whose call it is."""
        self.running.pop(call, None)
        self.open.discard(call)
        log.flush(call)
        self._settle()

    def drain(self, done: Callable[[], None]) -> None:
        """Calls `done` whenever nothing runs any more."""
        self._when_drained = done
        self._settle()

    def _settle(self) -> None:
        if self._when_drained is not None and not self.open:
            self._when_drained()
