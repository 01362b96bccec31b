"""What is to run: a load's body or, in the boot form, the environment, made into the same checked value."""
import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Nobody waits longer for a start: the default of a Function's queue.maxWaitSeconds.
INIT_TIMEOUT_MS = 30_000
MAX_FILES = 1000
MAX_FILE_BYTES = 256 * 1024
MAX_PATH = 255
#: A Kubernetes name or uid, or a revision of ours.
MAX_NAME = 253

RANGES = {
    "memoryMiB": (1, 1 << 20),
    "timeoutMs": (1, 3_600_000),
    "concurrency": (1, 1000),
    "initTimeoutMs": (1, 600_000),
}
NEEDED = ("pod", "function", "revision", "handler", "files", "memoryMiB", "timeoutMs", "concurrency")
OPTIONAL = ("env", "initTimeoutMs")


class BadLoad(Exception):
    """Why a load is none; `status` and `code` as the protocol has them."""

    def __init__(self, message: str, status: int = 400, code: str = "BadLoad"):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Spec:
    """What is to run."""

    namespace: str
    name: str
    revision: str
    #: MODULE.EXPORT
    handler: str
    memory_mib: int
    timeout_ms: int
    concurrency: int
    init_timeout_ms: int
    #: Of a load only.
    pod: str = ""
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def _fields(value: object, where: str, needed: tuple, optional: tuple = ()) -> dict:
    if not isinstance(value, dict):
        raise BadLoad(f"{where} must be an object")
    for name in needed:
        if name not in value:
            raise BadLoad(f"{where}: {name} is missing")
    for name in value:
        if name not in needed and name not in optional:
            raise BadLoad(f"{where}: {name} is not known")
    return value


def _is_text(value: object) -> bool:
    """Whether it is text that can be written: JSON may hold half of a surrogate pair, which no file or variable can."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _name(value: object, where: str) -> str:
    if _is_text(value) and 0 < len(value) <= MAX_NAME:
        return value
    raise BadLoad(f"{where} must be text of 1 to {MAX_NAME} characters")


def _number(value: object, where: str) -> int:
    least, most = RANGES[where]
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise BadLoad(f"{where} must be a whole number from {least} to {most}")


def _path(value: str) -> str:
    is_bad = any(step in ("", ".", "..") for step in value.split("/")) or "\0" in value
    if is_bad or not _is_text(value) or len(value.encode()) > MAX_PATH:
        shown = json.dumps(value[:MAX_PATH])
        raise BadLoad(f"files: {shown} must be a relative path of at most {MAX_PATH} bytes of UTF-8, without empty names, . or ..")
    return value


def _content(value: object, of: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise BadLoad(f"files: the content of {json.dumps(of)} must be base64") from None


def _files(value: object) -> dict[str, bytes]:
    if not isinstance(value, dict):
        raise BadLoad("files must be an object")
    files = {_path(of): _content(text, of) for of, text in value.items()}
    size = sum(map(len, files.values()))
    if len(files) > MAX_FILES or size > MAX_FILE_BYTES:
        limit = f"{MAX_FILES} files of {MAX_FILE_BYTES} bytes in all"
        raise BadLoad(f"files: {len(files)} files of {size} bytes; the limit is {limit}", 413, "TooLarge")
    return files


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadLoad("env must be an object")
    for key, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key) or not _is_text(text) or "\0" in text:
            raise BadLoad(f"env: {json.dumps(key)} must be a variable's name, and its value text without NUL")
    return value


def _handler(value: object) -> str:
    if isinstance(value, str) and len(value) <= MAX_PATH and re.fullmatch(r"[^.\0/][^\0]*\.[A-Za-z_]\w*", value):
        return _path(value)
    raise BadLoad("handler must be MODULE.EXPORT, for example index.handler")


def from_load(body: bytes) -> Spec:
    """A load's body, whose signature was checked."""
    try:
        load = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadLoad(f"the body is not JSON: {error}") from None
    _fields(load, "the load", NEEDED, OPTIONAL)
    function = _fields(load["function"], "function", ("uid", "namespace", "name"))
    _name(function["uid"], "function.uid")
    return Spec(
        pod=_name(load["pod"], "pod"),
        namespace=_name(function["namespace"], "function.namespace"),
        name=_name(function["name"], "function.name"),
        revision=_name(load["revision"], "revision"),
        handler=_handler(load["handler"]),
        files=_files(load["files"]),
        env=_env(load.get("env", {})),
        memory_mib=_number(load["memoryMiB"], "memoryMiB"),
        timeout_ms=_number(load["timeoutMs"], "timeoutMs"),
        concurrency=_number(load["concurrency"], "concurrency"),
        init_timeout_ms=_number(load.get("initTimeoutMs", INIT_TIMEOUT_MS), "initTimeoutMs"),
    )


def _setting(env: Mapping[str, str], variable: str, where: str, fallback: int) -> int:
    text = env.get(variable)
    if not text:
        return fallback
    try:
        return _number(int(text) if text.isdecimal() else text, where)
    except BadLoad as error:
        raise BadLoad(f"{variable}: {error}") from None


def from_env(env: Mapping[str, str]) -> Spec:
    """The boot form's environment."""
    return Spec(
        namespace=env.get("DORMOUSE_NAMESPACE") or "default",
        name=env.get("K_SERVICE") or "function",
        revision=env.get("K_REVISION") or "",
        handler=_handler(env.get("DORMOUSE_HANDLER")),
        memory_mib=_setting(env, "DORMOUSE_MEMORY_MIB", "memoryMiB", 256),
        timeout_ms=_setting(env, "DORMOUSE_TIMEOUT_MS", "timeoutMs", 30_000),
        concurrency=_setting(env, "DORMOUSE_CONCURRENCY", "concurrency", 1),
        init_timeout_ms=_setting(env, "DORMOUSE_INIT_TIMEOUT_MS", "initTimeoutMs", INIT_TIMEOUT_MS),
    )
