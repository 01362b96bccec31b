#!/usr/bin/env bash
# Bytes that mean two things, clients that drag, floods, and more than there is room for.
# Real servers behind the activator and other proxies for comparison come from Debian.
. "$(dirname "$0")/suite.sh"
need_packages node=nodejs /usr/bin/gunicorn=gunicorn /usr/sbin/nginx=nginx-light /usr/sbin/haproxy=haproxy
# One case after the other: each watches memory and counts of a machine that does nothing else.
suite hostile --test-threads=1 --skip conformance::
