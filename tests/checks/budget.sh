#!/usr/bin/env bash
# A budget over three activators: nothing is spent beyond it but by the calls that run.
. "$(dirname "$0")/suite.sh"
suite many budget::
