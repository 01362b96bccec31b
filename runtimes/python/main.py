"""A runtime for handler code (../README.md): parked until a load comes, or, with DORMOUSE_HANDLER, booted with its code.

Run as a file, so that the first place where Python looks for modules is this folder and not the working folder."""
from dormouse.runtime.main import main

if __name__ == "__main__":
    main()
