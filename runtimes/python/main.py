"""A runtime for handler code (../README.md): parked until a load comes, or, with DORMOUSE_HANDLER, booted with its code.

Run as a file, so that the first place where Python looks for modules is this folder and not the working folder."""
import os
import signal

# Before the imports, which take a while: PID 1 of a container hears only signals that it has asked for.
for name in (signal.SIGTERM, signal.SIGINT):
    signal.signal(name, lambda *_: os._exit(0))

from dormouse.runtime.main import main  # noqa: E402

if __name__ == "__main__":
    main()
