#!/usr/bin/env bash
# The controller is silent or dead for a while: warm calls go on, waiting calls wait, and afterwards all is whole.
. "$(dirname "$0")/suite.sh"
suite many away::
