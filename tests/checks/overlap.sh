#!/usr/bin/env bash
# Several activators share instances: never more calls at once than allowed, whoever joins, leaves, is killed or paused.
. "$(dirname "$0")/suite.sh"
suite many overlap::
