#!/usr/bin/env bash
# kill -9 of activator and controller under load: no call lost that was answered, none recorded twice.
. "$(dirname "$0")/suite.sh"
need_packages /usr/lib/postgresql=postgresql
suite kill
