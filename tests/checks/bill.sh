#!/usr/bin/env bash
# The bill: frames through the real ledger, statements to the last digit.
. "$(dirname "$0")/suite.sh"
suite bill
