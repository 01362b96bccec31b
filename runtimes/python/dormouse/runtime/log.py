"""The log: one JSON object a line on stdout, in the order in which it was said. What user code prints or logs becomes
such lines."""
import collections
import contextvars
import io
import json
import logging
import os
import sys
import threading
import traceback
from datetime import datetime, timezone

STDOUT = 1
OWN_FOLDER = os.path.dirname(__file__) + os.sep
#: Characters of one message: a line stays far below what log collectors take, whatever an object prints as.
MAX_MESSAGE = 64 * 1024

#: The call that is running, in whatever thread or task; anything with an `id` and a dict `partials`.
current: contextvars.ContextVar = contextvars.ContextVar("dormouse_call", default=None)
# One thread may come again: the collector runs user code (`__del__`) wherever something is allocated, within `_put` too.
_lock = threading.RLock()
_lines: collections.deque[memoryview] = collections.deque()


def cut(text: str) -> str:
    """A message that is not too long."""
    more = len(text) - MAX_MESSAGE
    return text if more <= 0 else f"{text[:MAX_MESSAGE]}… ({more} more characters)"


def now() -> str:
    """The time, RFC 3339 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _put(line: str) -> None:
    with _lock:
        _lines.append(memoryview(line.encode("utf-8", "backslashreplace")))
        if len(_lines) > 1:
            # This thread is within a line: it writes this one after it.
            return
        while _lines:
            try:
                _write(_lines[0])
            finally:
                _lines.popleft()


def _write(data: memoryview) -> None:
    while data:
        try:
            data = data[os.write(STDOUT, data):]
        except BlockingIOError:
            # A pipe whose reader is slow: the line is not lost, and nothing overtakes it.
            os.sched_yield()
        except OSError:
            return


def emit(level: str, message: object, fields: dict | None = None) -> None:
    """Writes a line. `fields` come after the four that every line has, and replace none of them."""
    line = {"time": now(), "level": level, "message": cut(str(message))}
    call = current.get()
    if call is not None:
        line["requestId"] = call.id
    _put(_written(line, fields or {}) + "\n")


def _written(line: dict, fields: dict) -> str:
    try:
        # What JSON has no word for is written as Python shows it.
        return json.dumps({**line, **fields, **line}, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=repr)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({**line, "fields": cut(repr(fields))}, ensure_ascii=False, separators=(",", ":"))


def stack_of(error: BaseException) -> str:
    """The whole trace of an error, without the runtime's own frames before the handler's."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.startswith(OWN_FOLDER):
        at = at.tb_next
    return cut("".join(traceback.format_exception(type(error), error, at or error.__traceback__)).rstrip())


def text_of(error: BaseException) -> str:
    """What an error says, which a class of the user's may fail to."""
    try:
        return str(error)
    except BaseException:
        return "(str() of it failed)"


def failure(code: str, error: BaseException | str, **more: object) -> None:
    """Writes an error with its code and whole trace."""
    fields = {"error": code, **more}
    if isinstance(error, BaseException):
        fields["stack"] = stack_of(error)
        error = f"{type(error).__name__}: {text_of(error)}"
    emit("error", error, fields)


class Logger:
    """For user code: a message, what % puts into it, and fields."""

    def _say(self, level: str, message: object, args: tuple, fields: dict) -> None:
        try:
            text = str(message) % args if args else str(message)
        except (TypeError, ValueError):
            # A format that does not fit must not fail the call.
            text = f"{message} {args}"
        emit(level, text, fields)

    def debug(self, message, /, *args, **fields):
        self._say("debug", message, args, fields)

    def info(self, message, /, *args, **fields):
        self._say("info", message, args, fields)

    def warn(self, message, /, *args, **fields):
        self._say("warn", message, args, fields)

    warning = warn

    def error(self, message, /, *args, **fields):
        self._say("error", message, args, fields)


class _Nobody(threading.local):
    """Whose texts are those that no call says: each thread's own."""

    def __init__(self):
        self.partials: dict[str, str] = {}


_nobody = _Nobody()


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: bytes are text of the log."""

    def __init__(self, text: "Stream"):
        self._text = text

    def writable(self):
        return True

    def write(self, data):
        self._text.write(bytes(data).decode("utf-8", "replace"))
        return len(data)


class Stream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr`: each line is a line of the log. A text without its line's end is kept for its call."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, level: str):
        self._level = level
        self.buffer = _Bytes(self)

    def writable(self):
        return True

    def fileno(self):
        # For child processes, which write past the log.
        return STDOUT

    def write(self, text):
        partials = (current.get() or _nobody).partials
        *lines, rest = (partials.get(self._level, "") + text).split("\n")
        if len(rest) > MAX_MESSAGE:
            lines, rest = [*lines, rest], ""
        partials[self._level] = rest
        for line in lines:
            emit(self._level, line)
        return len(text)


def flush(call) -> None:
    """Writes what a call has begun to say. In a context whose call it is."""
    partials, call.partials = call.partials, {}
    for level, text in partials.items():
        if text:
            emit(level, text)


class _Handler(logging.Handler):
    def emit(self, record):
        level = "error" if record.levelno >= logging.ERROR else "warn" if record.levelno >= logging.WARNING else \
            "info" if record.levelno >= logging.INFO else "debug"
        fields = {"logger": record.name}
        if record.exc_info and record.exc_info[1]:
            fields["stack"] = stack_of(record.exc_info[1])
        try:
            emit(level, record.getMessage(), fields)
        except Exception as error:
            emit("error", f"a log record cannot be written: {error!r}: {record.msg!r}")


def take_over() -> None:
    """From here on everything that Python code writes is a line of the log."""
    sys.stdout, sys.stderr = Stream("info"), Stream("error")
    logging.root.handlers = [_Handler()]
    logging.root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = lambda args: failure("UncaughtException", args.exc_value or str(args.exc_type))
