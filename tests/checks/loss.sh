#!/usr/bin/env bash
# kill -9 of one activator of three: only the calls that were on it fail, and every record is there.
. "$(dirname "$0")/suite.sh"
suite many loss::
