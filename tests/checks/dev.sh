#!/usr/bin/env bash
# `dormouse dev` as a child process in a clean folder: the first command of the README.
. "$(dirname "$0")/suite.sh"
need_packages node=nodejs python3=python3
suite dev
