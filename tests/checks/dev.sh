#!/usr/bin/env bash
# `dormouse dev` as a child process in a clean folder: the first command of the README.
. "$(dirname "$0")/suite.sh"
suite dev
