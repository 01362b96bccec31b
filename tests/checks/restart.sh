#!/usr/bin/env bash
# A rolling restart of the activators under load fails no call.
. "$(dirname "$0")/suite.sh"
suite many restart::
