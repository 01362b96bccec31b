#!/usr/bin/env bash
# The functions of examples/ and the tutorial, run as their pages say, on Redis and PostgreSQL of the distribution.
. "$(dirname "$0")/suite.sh"
packages=/usr/lib/python3/dist-packages
need_packages node=nodejs python3=python3 curl=curl openssl=openssl /usr/lib/postgresql=postgresql redis-server=redis-server \
  $packages/psycopg2=python3-psycopg2 $packages/redis=python3-redis $packages/PIL=python3-pil
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 18 ? 0 : 1)' || cannot "needs Node 18 or later; this is $(node --version)"
# The distribution's own interpreter is the one that sees the distribution's packages.
/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || cannot "needs Python 3.11 or later; this is $(/usr/bin/python3 --version)"
suite examples
