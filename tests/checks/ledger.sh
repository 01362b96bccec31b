#!/usr/bin/env bash
# The ledger's stores, held to the same tests: a folder, and PostgreSQL (the distribution's own server).
. "$(dirname "$0")/suite.sh"
need_packages /usr/lib/postgresql=postgresql
suite ledger
