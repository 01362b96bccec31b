"""Sees to it that nothing runs for ever or takes all memory: on the second thread, which goes on while user code computes."""
import asyncio
import faulthandler
import re
import sys
import time
import traceback
from collections.abc import Callable

from . import log
from .calls import Calls
from .spec import Spec

LOOK_S = 0.1
#: An activator gives up at timeoutMs and needs a moment to take the instance out of routing: this is for what is left.
GRACE_S = 3
#: Looks without a call until there are no more looks: calls that follow each other start no timer each.
IDLE_LOOKS = 20
#: Code that holds the interpreter's lock (a regular expression that backtracks for ever) keeps this thread from looking too.
#: So Python's own watchdog, which needs no lock, ends a process in which nobody has looked: this much after the watch would
#: have. It is more than REARM_S and LOOK_S, so no call is ended sooner than the watch would end it.
LAST_S = 2
#: The watchdog is a new thread each time that it is set: not at every look.
REARM_S = 1
STDERR = 2
ANON = re.compile(rb"^RssAnon:\s+(\d+) kB", re.MULTILINE)


def held_mib() -> int:
    """MiB that the process holds of its own: pages of programs and libraries are the kernel's to take back. 0 where it does
    not tell (it is no Linux)."""
    try:
        with open("/proc/self/status", "rb") as status:
            match = ANON.search(status.read())
    except FileNotFoundError:
        return 0
    return -(-int(match[1]) // 1024) if match else 0


class Watch:
    """Looks while something runs. `kill(code, message, stack)` is called at most once."""

    def __init__(self, main_thread: int, kill: Callable[[str, str, str], None]):
        self._main_thread, self._kill = main_thread, kill
        self._timer: asyncio.TimerHandle | None = None
        self._spec: Spec | None = None
        self._calls: Calls | None = None
        self._init_ends: float | None = None
        self._idle = 0
        self._armed = 0.0

    def initialising(self, spec: Spec) -> None:
        self._spec, self._init_ends = spec, time.monotonic() + spec.init_timeout_ms / 1000
        self.wake()

    def serving(self, calls: Calls) -> None:
        self._init_ends, self._calls = None, calls
        self._arm()

    def wake(self) -> None:
        """There is something to look at."""
        self._idle = 0
        if self._timer is None:
            self._arm()
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
        self._spec = None

    def _arm(self) -> None:
        """Has the process ended by Python itself unless there is another look in time."""
        self._armed = time.monotonic()
        allowed_ms = self._spec.timeout_ms if self._init_ends is None else self._spec.init_timeout_ms
        faulthandler.dump_traceback_later(allowed_ms / 1000 + GRACE_S + LAST_S, file=STDERR, exit=True)

    def _look(self) -> None:
        self._timer = None
        found = self._found()
        if found is not None:
            self._kill(*found, self._stack())
        elif self._idle <= IDLE_LOOKS:
            if time.monotonic() - self._armed > REARM_S:
                self._arm()
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        else:
            faulthandler.cancel_dump_traceback_later()

    def _found(self) -> tuple[str, str] | None:
        spec, held = self._spec, held_mib()
        if held > spec.memory_mib:
            return "OutOfMemory", f"the process holds {held} MiB; the function's memory is {spec.memory_mib} MiB"
        if self._init_ends is not None:
            is_over = time.monotonic() > self._init_ends
            return ("InitTimeout", f"the module was not imported within {spec.init_timeout_ms} ms") if is_over else None
        oldest = next(iter(self._calls.running.values()), None) if self._calls else None
        self._idle = self._idle + 1 if oldest is None else 0
        if oldest is None or time.monotonic() - oldest <= spec.timeout_ms / 1000 + GRACE_S:
            return None
        return "Timeout", f"a call runs {GRACE_S} s longer than its {spec.timeout_ms} ms: the instance ends"

    def _stack(self) -> str:
        """Where the main thread is."""
        frame = sys._current_frames().get(self._main_thread)
        return log.cut("".join(traceback.format_stack(frame)).rstrip()) if frame else ""
