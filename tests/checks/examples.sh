#!/usr/bin/env bash
# The functions of examples/ and the tutorial, run as their pages say, on Redis and PostgreSQL of the distribution.
. "$(dirname "$0")/suite.sh"
need_examples
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' || cannot "needs Node 18 or later; this is $(node --version)"
# The distribution's own interpreter is the one that sees the distribution's packages.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || cannot "needs Python 3.11 or later; this is $(/usr/bin/python3 --version)"
suite examples
