#!/bin/sh
# image-root.sh PROGRAM FOLDER: makes FOLDER the root of an image that holds the program, the C library that it was
# linked with, and nothing else. No shell, no package manager. Used by the Dockerfile and by tests/cluster/images.sh.
#
# Not a static program: of the two C libraries that could be linked in, musl copies memory so slowly that the activator
# serves a sixth fewer calls per CPU-second (BENCHMARKS.md), and glibc resolves names only with its shared parts.
set -eu
program=$1 root=$2
mkdir -p "$root/etc"
cp "$program" "$root/"
chmod 755 "$root/$(basename "$program")"
# "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", and the loader alone: "/lib64/ld-linux-x86-64.so.2 (0x...)".
libraries=$(ldd "$program" | awk '/=> \// { print $3; next } $1 ~ /^\// { print $1 }')
[ -n "$libraries" ] || { echo "$program: its libraries are not found (ldd says nothing)" >&2; exit 1; }
for library in $libraries; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
  chmod 755 "$root$library"
done
# Without this file DNS is asked for localhost and for what stands in /etc/hosts.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
