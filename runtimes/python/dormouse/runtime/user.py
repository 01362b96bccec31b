"""Where user code runs: on an event loop of the main thread, or on the main thread and more threads.

The second thread, which has the sockets, hands calls over and awaits what becomes of them. So a handler that computes
or waits keeps nobody from being answered, and what belongs to a thread (a SQLite connection made at import) is used where
it was made."""
import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Callable

from .handler import Handler
from .log import failure

#: What an iterator gives when it has ended.
END = object()


class Exited(Exception):
    """User code ended the process."""

    def __init__(self, status: int):
        super().__init__(f"the function ended the process with code {status}")
        self.status = status


def status_of(error: SystemExit) -> int:
    """The exit code that Python gives a SystemExit."""
    return 0 if error.code is None else error.code if isinstance(error.code, int) else 1


async def _awaited(made: object) -> object:
    return await made


async def _anext(iterator: object) -> object:
    return await anext(iterator, END)


# Steps of a call: what they give may have to be awaited.
def _next(iterator: object) -> object:
    return _anext(iterator) if hasattr(iterator, "__anext__") else next(iterator, END)


def _close(iterator: object) -> object:
    close = getattr(iterator, "aclose", None) or getattr(iterator, "close", None)
    return close() if close is not None else None


class User:
    """User code, as the second thread sees it. Each step of a call runs in the call's context."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        #: The second thread's.
        self._loop = loop

    async def call(self, code: Callable, event: dict, context: object, of: contextvars.Context) -> object:
        """What a handler gives: a value or an iterator."""
        return await self._step(lambda: code(event, context), of)

    async def next(self, iterator: object, of: contextvars.Context) -> object:
        """The next piece of an iterator, or END."""
        return await self._step(lambda: _next(iterator), of)

    async def close(self, iterator: object, of: contextvars.Context) -> None:
        """Ends an iterator early."""
        await self._step(lambda: _close(iterator), of)

    async def _step(self, make: Callable, of: contextvars.Context) -> object:
        future = self._loop.create_future()
        self._submit(make, of, future)
        value, error = await future
        if isinstance(error, SystemExit):
            raise Exited(status_of(error)) from error
        if error is not None:
            raise error
        return value

    def _settle(self, future: asyncio.Future, value: object, error: BaseException | None) -> None:
        # A pair: some exceptions mean something else in a future.
        self._loop.call_soon_threadsafe(lambda: future.done() or future.set_result((value, error)))

    def _submit(self, make: Callable, of: contextvars.Context, future: asyncio.Future) -> None:
        raise NotImplementedError

    def serve(self) -> None:
        """Runs user code on the main thread until `stop`."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class OnLoop(User):
    """For `async def`: calls are tasks of one event loop."""

    def __init__(self, loop, own: asyncio.AbstractEventLoop):
        super().__init__(loop)
        self._own = own
        self._own.set_exception_handler(_stray)
        self._tasks: set[asyncio.Task] = set()

    def _submit(self, make, of, future):
        self._own.call_soon_threadsafe(self._start, make, of, future)

    def _start(self, make, of, future):
        task = self._own.create_task(self._run(make, future), context=of)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, make, future):
        try:
            made = make()
            self._settle(future, await made if inspect.isawaitable(made) else made, None)
        except BaseException as error:
            self._settle(future, None, error)

    def serve(self):
        asyncio.set_event_loop(self._own)
        self._own.run_forever()

    def stop(self):
        self._own.call_soon_threadsafe(self._own.stop)


def _stray(_loop, said: dict) -> None:
    """An exception in a task that nobody awaits."""
    failure("UncaughtException", said.get("exception") or said["message"])


class OnThreads(User):
    """For `def`: calls run on `concurrency` threads, the main thread first."""

    def __init__(self, loop, concurrency: int):
        super().__init__(loop)
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._concurrency = concurrency
        # The main thread is one; both counts are the second thread's.
        self._threads, self._busy = 1, 0
        self._runners = threading.local()

    def _submit(self, make, of, future):
        self._busy += 1
        future.add_done_callback(self._ended)
        if self._busy > self._threads and self._threads < self._concurrency:
            self._threads += 1
            threading.Thread(target=self.serve, name=f"call-{self._threads}", daemon=True).start()
        self._jobs.put((make, of, future))

    def _ended(self, _future):
        self._busy -= 1

    def serve(self):
        while (job := self._jobs.get()) is not None:
            make, of, future = job
            try:
                self._settle(future, of.run(self._run, make), None)
            except BaseException as error:
                self._settle(future, None, error)

    def _run(self, make):
        made = make()
        if not inspect.isawaitable(made):
            return made
        # Its thread keeps the loop: what is bound to it, such as a connection, can be used again.
        if not hasattr(self._runners, "own"):
            self._runners.own = asyncio.Runner()
        return self._runners.own.run(_awaited(made), context=contextvars.copy_context())

    def stop(self):
        # One for each thread: any of them may take it, and the main thread must.
        for _ in range(self._threads):
            self._jobs.put(None)


def user_of(handler: Handler, loop: asyncio.AbstractEventLoop, own: asyncio.AbstractEventLoop, concurrency: int) -> User:
    """Where a handler's code runs: `loop` is the second thread's, `own` the main thread's."""
    return OnLoop(loop, own) if handler.is_async else OnThreads(loop, concurrency)
