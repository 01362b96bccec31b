#!/usr/bin/env bash
# The bill: frames through the real ledger, statements to the last digit, in a folder and in PostgreSQL.
. "$(dirname "$0")/suite.sh"
need_packages /usr/lib/postgresql=postgresql
suite bill
