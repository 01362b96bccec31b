"""Imports the user's module and finds its handler. What goes wrong is an InitFailure with a code and words for the
function's owner."""
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from .log import text_of


class InitFailure(Exception):
    """Why there is no handler; the cause has the trace."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass
class Handler:
    """What a module exports."""

    call: Callable
    warm_up: Callable | None

    @property
    def is_async(self) -> bool:
        """Whether it runs on an event loop."""
        call = self.call if inspect.isroutine(self.call) else getattr(self.call, "__call__", self.call)
        return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _locate(folder: str, handler: str) -> tuple[str, str, str]:
    """The module's name, its file in the folder, the export's name."""
    module, _, name = handler.rpartition(".")
    steps = module.replace(".", "/").split("/")
    tried = ["/".join(steps) + ".py", "/".join(steps) + "/__init__.py"]
    file = next((file for file in tried if os.path.isfile(os.path.join(folder, file))), None)
    if file is None:
        raise InitFailure("HandlerNotFound", f"handler {handler}: there is no file {' or '.join(tried)}")
    if not all(step.isidentifier() for step in steps):
        raise InitFailure("HandlerNotFound", f"handler {handler}: {'.'.join(steps)} cannot be a module's name")
    if steps[0] in sys.modules or steps[0] in sys.stdlib_module_names:
        raise InitFailure("HandlerNotFound", f"{file}: Python has a module {steps[0]} of its own: rename the file")
    return ".".join(steps), file, name


def _where(error: BaseException, folder: str) -> str:
    """The place of the innermost frame that is in the folder."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(folder + os.sep)]
    return f"{os.path.relpath(frames[-1].filename, folder)}:{frames[-1].lineno}: " if frames else ""


def explained(error: BaseException, folder: str) -> InitFailure:
    """An error of the module's, in words for the function's owner."""
    if isinstance(error, InitFailure):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        file = os.path.relpath(error.filename, folder) if error.filename.startswith(folder) else error.filename
        return InitFailure("SyntaxError", f"{file}:{error.lineno}: {type(error).__name__}: {error.msg}")
    if isinstance(error, SystemExit):
        return InitFailure("Exited", f"{_where(error, folder)}the module ended the process while it was imported")
    code = "ModuleNotFound" if isinstance(error, ModuleNotFoundError) else "InitError"
    text = text_of(error).split("\n", 1)[0]
    return InitFailure(code, f"{_where(error, folder)}{type(error).__name__}: {text}")


def _found(module: object, name: str, file: str) -> Handler:
    handler = getattr(module, name, None)
    if not callable(handler):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        has = f"it has {', '.join(names[:10])}" if names else "it has nothing to call"
        what = f"{name}, which is nothing to call" if hasattr(module, name) else f"no {name}"
        raise InitFailure("HandlerNotFound", f"{file} has {what}; {has}")
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError as error:
        raise InitFailure("HandlerNotFound", f"{file}: {name} cannot be called with (event, context): {error}") from None
    except ValueError:
        pass  # Native code that does not say what it takes.
    warm_up = getattr(module, "warm_up", None)
    return Handler(handler, warm_up if callable(warm_up) else None)


def import_handler(folder: str, handler: str) -> Handler:
    """Imports the handler's module from the folder; raises InitFailure, and whatever the module raises."""
    module, file, name = _locate(folder, handler)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    return _found(importlib.import_module(module), name, file)
