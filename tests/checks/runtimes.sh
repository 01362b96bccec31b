#!/usr/bin/env bash
# The language runtimes: their own tests, then the suite that holds both to one contract. Nothing of ours is built for it.
. "$(dirname "$0")/suite.sh"
need_packages node=nodejs python3=python3
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' || cannot "needs Node 18 or later; this is $(node --version)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || cannot "needs Python 3.11 or later; this is $(python3 --version)"
node --test runtimes/nodejs/test/*.test.js
(cd runtimes/python && python3 -B -m unittest discover -s tests -t .)
suite runtimes
