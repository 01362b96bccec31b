"""A runtime's life: parked -> initialising -> serving or spent. The main thread is for user code; the second has the
sockets and the watch."""
import asyncio
import atexit
import base64
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable

from . import log
from .calls import Calls
from .door import Door
from .ed25519 import PublicKey
from .handler import InitFailure, explained, import_handler
from .rehearse import rehearse
from .spec import BadLoad, Spec, from_env
from .traffic import Traffic
from .user import User, status_of, user_of
from .watch import Watch

SETTINGS = ("DORMOUSE_LOAD_PORT", "DORMOUSE_LOAD_KEY", "DORMOUSE_POD_UID", "DORMOUSE_HANDLER", "DORMOUSE_CODE_DIR",
            "DORMOUSE_NAMESPACE", "DORMOUSE_MEMORY_MIB", "DORMOUSE_TIMEOUT_MS", "DORMOUSE_CONCURRENCY",
            "DORMOUSE_INIT_TIMEOUT_MS")
#: The longest that an exiting process waits for what it has said to be sent.
SENT_S = 1
#: What a shell says of a process that SIGKILL ended. The signal itself does nothing where this is PID 1 of a container.
KILLED = 128 + signal.SIGKILL


def _port(variable: str, fallback: int) -> int:
    text = os.environ.get(variable) or str(fallback)
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise BadLoad(f"{variable} must be a port, not {text}")


def _key() -> PublicKey | None:
    text = os.environ.get("DORMOUSE_LOAD_KEY")
    if not text:
        return None
    try:
        return PublicKey(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise BadLoad(f"DORMOUSE_LOAD_KEY: {error}") from None


class Runtime:
    """The process."""

    def __init__(self):
        self.host = os.environ.get("HOST") or None
        self.port = _port("PORT", 8080)
        self.state = "parked"
        self._is_drained = False
        #: The folder of a load: removed at the end.
        self.folder: str | None = None
        self.door: Door | None = None
        self.traffic: Traffic | None = None
        self.user: User | None = None
        #: The main thread's, which modules find when they are imported.
        self.own_loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.own_loop)
        #: The second thread's.
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._broken)
        self.watch = Watch(threading.get_ident(), self._kill)
        self.calls = Calls(self.watch.wake)
        self._loads: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self.loop.run_forever, name="guard", daemon=True).start()

    def on_loop(self, code: Callable, *args) -> None:
        """Has the second thread do something."""
        self.loop.call_soon_threadsafe(code, *args)

    def _broken(self, _loop, said: dict) -> None:
        """An error of the second thread: nothing can be relied on, but where it was the system that refused something."""
        error = said.get("exception") or said["message"]
        log.failure("GuardFailed", error)
        if not isinstance(error, OSError):
            self.leave(1)

    def park(self) -> tuple[Spec, str]:
        """Opens the load port and waits for a load."""
        port = _port("DORMOUSE_LOAD_PORT", 8081)
        key = _key()
        rehearse(self.loop)
        asyncio.set_event_loop(self.own_loop)
        self.door = Door(key, os.environ.get("DORMOUSE_POD_UID"), self._loaded)
        asyncio.run_coroutine_threadsafe(self.door.server.listen(self.host, port), self.loop).result()
        return self._loads.get()

    def _loaded(self, spec: Spec, folder: str) -> None:
        self.folder, self.state = folder, "initialising"
        self.watch.initialising(spec)
        self._loads.put((spec, folder))

    def boot(self) -> tuple[Spec, str]:
        """The boot form: the code is here already."""
        spec = from_env(os.environ)
        folder = os.path.realpath(os.environ.get("DORMOUSE_CODE_DIR") or "/app")
        if not os.path.isdir(folder):
            raise BadLoad(f"DORMOUSE_CODE_DIR: {folder} is no folder")
        self.state = "initialising"
        self.on_loop(self.watch.initialising, spec)
        return spec, folder

    def take_on(self, spec: Spec, folder: str) -> None:
        """Becomes the function's, or is spent."""
        try:
            for name in SETTINGS:
                os.environ.pop(name, None)
            if self.folder is not None:
                sys.dont_write_bytecode = True
                os.environ.update(spec.env)
                os.environ.update(K_SERVICE=spec.name, K_CONFIGURATION=spec.name, K_REVISION=spec.revision)
                time.tzset()
            os.chdir(folder)
            self._initialise(spec, folder)
        except BaseException as error:
            # Whatever a module raises, where it is imported or looked at.
            self._failed(error, explained(error, folder))

    def _initialise(self, spec: Spec, folder: str) -> None:
        """Imports the handler and opens the traffic port."""
        began = time.perf_counter()
        handler = import_handler(folder, spec.handler)
        init_ms = round((time.perf_counter() - began) * 1000, 3)
        self.user = user_of(handler, self.loop, self.own_loop, spec.concurrency)
        self.traffic = Traffic(spec, handler, self.user, self.calls, self.exited)
        try:
            asyncio.run_coroutine_threadsafe(self.traffic.listen(self.host, self.port), self.loop).result()
        except OSError as error:
            raise InitFailure("InitError", f"the traffic port cannot be opened: {error}") from error
        self.state = "serving"
        self.on_loop(self._serving, init_ms)

    def _serving(self, init_ms: float) -> None:
        self.watch.serving(self.calls)
        if self.door is not None:
            self.door.answer(200, {"initMs": init_ms})

    def _failed(self, error: BaseException, failure: InitFailure) -> None:
        """Says why there is no handler, and leaves."""
        self.state = "spent"
        cause = (error.__cause__ if error is failure else None) or error
        log.emit("error", str(failure), {"error": failure.code, "stack": log.stack_of(cause)})
        sent = threading.Event()

        def tell():
            self.watch.stop()
            self._answer_load(422, failure.code, str(failure), sent.set)

        self.on_loop(tell)
        sent.wait(SENT_S)
        self.leave(1)

    def _answer_load(self, status: int, code: str, message: str, sent: Callable[[], None]) -> None:
        if self.door is None:
            sent()
        else:
            self.door.answer(status, {"error": code, "message": message}, sent)

    def _kill(self, code: str, message: str, stack: str) -> None:
        """Ends the process, whose main thread may never look again."""
        log.emit("error", message, {"error": code, "stack": stack})

        if self.state == "initialising":
            self._answer_load(422, code, message, lambda: self.leave(KILLED))
        else:
            self.leave(KILLED)

    def exited(self, status: int) -> None:
        """User code ended the process: every call in flight is told, and it ends. On the second thread."""
        self.traffic.end("Exited")
        self.leave(status)

    def stop(self, *_signal) -> None:
        """SIGTERM. On the main thread."""
        if self.state != "serving":
            self.leave(0)
        self.on_loop(self._drain)

    def _drain(self) -> None:
        self.traffic.server.stop(self._drained)
        self.calls.drain(self._drained)

    def _drained(self) -> None:
        # A call goes on without its caller, and an answer leaves after its call's end.
        if self.calls.open or self.traffic.server.connections or self._is_drained:
            return
        self._is_drained = True
        # What is registered with atexit runs on the main thread; a user's thread that goes on for ever holds nobody up.
        self.user.stop()
        self.loop.call_later(SENT_S, self.leave, 0)

    def serve(self) -> None:
        """Runs user code until everything is done."""
        try:
            self.user.serve()
        except SystemExit as error:
            # In a task that no call awaits.
            log.failure("Exited", error)
            self.on_loop(self.exited, status_of(error))
            threading.Event().wait(SENT_S)
        atexit._run_exitfuncs()
        self.leave(0)

    def _remove_folder(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self, status: int) -> None:
        """Ends the process at once."""
        self._remove_folder()
        os._exit(status)


def main() -> None:
    """Runs until the end of the process."""
    log.take_over()
    try:
        runtime = Runtime()
        # Until here main.py's.
        signal.signal(signal.SIGTERM, runtime.stop)
        signal.signal(signal.SIGINT, runtime.stop)
        spec, folder = runtime.boot() if os.environ.get("DORMOUSE_HANDLER") else runtime.park()
    except (BadLoad, OSError) as error:
        log.emit("error", str(error), {"error": "BadSetting"})
        sys.stdout.flush()
        os._exit(1)
    runtime.take_on(spec, folder)
    runtime.serve()
