"""The load port: takes one load, and says to all others who holds this instance."""
import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import Callable

from . import log
from .ed25519 import PublicKey
from .http1 import Limits, Request, Response, Server
from .spec import BadLoad, Spec, from_load

#: 256 KiB of files are 350 KiB of base64, and environment variables may be as long again.
MAX_BODY = 1 << 20
#: A load comes from the same cluster: 1 MiB in 5 s is what the slowest link would do.
BODY_S = 5
#: One caller loads, and few ask whether they may.
MAX_CONNECTIONS = 64


def write(files: dict[str, bytes]) -> str:
    """Writes the code into a new folder that nobody else can read."""
    try:
        # Not in any other folder that Python knows of: one that is told and cannot be used is a mistake to hear of.
        folder = os.path.realpath(tempfile.mkdtemp(prefix="dormouse-", dir=os.environ.get("TMPDIR") or "/tmp"))
    except OSError as error:
        raise _cannot_write(error) from None
    made = {folder}
    try:
        for name, content in files.items():
            file = os.path.join(folder, name)
            parent = os.path.dirname(file)
            if parent not in made:
                os.makedirs(parent, mode=0o700, exist_ok=True)
                made.add(parent)
            with open(file, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
                out.write(content)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
            raise BadLoad(f"files: two of them want the same path ({error.filename[len(folder) + 1:]})") from None
        raise _cannot_write(error) from None
    return folder


def _cannot_write(error: OSError) -> BadLoad:
    return BadLoad(f"the code cannot be written: {error}", 500, "CannotWrite")


class Door:
    """Lives on the event loop of the second thread. `loaded(spec, folder)` is called at most once."""

    def __init__(self, key: PublicKey | None, pod: str | None, loaded: Callable[[Spec, str], None]):
        self._key, self._pod, self._loaded = key, pod, loaded
        self._holder: dict | None = None
        self._outcome: asyncio.Future | None = None
        self.server = Server(self._serve, Limits(MAX_BODY, BODY_S, MAX_CONNECTIONS))

    async def _serve(self, request: Request, response: Response) -> None:
        try:
            if request.target != "/load":
                raise BadLoad("the load port knows POST /load", 404, "NotFound")
            if request.method != "POST":
                raise BadLoad(f"POST /load, not {request.method}", 405, "BadMethod")
            if request.is_too_large:
                raise BadLoad(f"the body is larger than {MAX_BODY} bytes", 413, "TooLarge")
            self._take(request)
        except BadLoad as bad:
            holder = {"holder": self._holder} if bad.code == "AlreadyLoaded" else {}
            _say(response, bad.status, {"error": bad.code, "message": str(bad), **holder})
            return
        except Exception as error:
            log.failure("LoadFailed", error)
            _say(response, 500, {"error": "LoadFailed", "message": f"the load failed: {log.text_of(error)}"})
            return
        status, body, sent = await self._outcome
        _say(response, status, body)
        sent()

    def _take(self, request: Request) -> None:
        if self._holder is not None:
            of = self._holder["function"]
            raise BadLoad(f"this instance runs {of['namespace']}/{of['name']} {self._holder['revision']}", 409, "AlreadyLoaded")
        if self._key is None or not self._pod:
            raise BadLoad("DORMOUSE_LOAD_KEY or DORMOUSE_POD_UID is not set: nothing is loaded unsigned", 401, "NoKey")
        if not self._key.verifies(_signature(request.header("dormouse-signature")), request.body):
            what = "dormouse-signature is not the signature of this body by the key of this instance"
            raise BadLoad(what, 401, "BadSignature")
        spec = from_load(request.body)
        if spec.pod != self._pod:
            raise BadLoad(f"this is pod {self._pod}, not {spec.pod}", 401, "WrongPod")
        folder = write(spec.files)
        self._holder = {"function": json.loads(request.body)["function"], "revision": spec.revision}
        self._outcome = asyncio.get_running_loop().create_future()
        self._loaded(spec, folder)

    def answer(self, status: int, body: dict, sent: Callable[[], None] = lambda: None) -> None:
        """Answers the load; `sent` is called when the answer has left or nobody waits for it."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result((status, body, sent))
        else:
            sent()


def _signature(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=True)
    except ValueError:
        return b""


def _say(response: Response, status: int, body: dict) -> None:
    response.whole(status, [("content-type", "application/json")], json.dumps(body).encode() + b"\n")
