#!/usr/bin/env bash
# Power cuts and full disks under load: what was answered is recorded once, whatever the disk did.
. "$(dirname "$0")/suite.sh"
[ "$(id -u)" = 0 ] || cannot "needs root (it mounts disks that can lose their power)"
need_packages mkfs.ext4=e2fsprogs losetup=mount perl=perl-base /usr/lib/postgresql=postgresql
# Not every container may use a loop device, root or not.
probe() {
  truncate -s 8M "$1/disk" && mkfs.ext4 -q "$1/disk" && mkdir "$1/at" && unshare --mount mount -o loop "$1/disk" "$1/at"
}
folder=$(mktemp -d) failed=''
reason=$(probe "$folder" 2>&1) || failed="needs loop devices and mounts: ${reason##*$'\n'}"
rm -rf "$folder"
[ -z "$failed" ] || cannot "$failed"
suite power
