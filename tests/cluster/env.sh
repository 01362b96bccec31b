# Names and places that the scripts of the test cluster share. Sourced, never run.
#
# Nothing is kept in the checkout: the kit and the state live in the user's cache folder. Two clusters can run side by
# side when each has its own DORMOUSE_CLUSTER_DIR and DORMOUSE_CLUSTER_NETNS.
# shellcheck shell=bash

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/dormouse
KIT=$CACHE/cluster/bin
DIR=${DORMOUSE_CLUSTER_DIR:-$CACHE/cluster/run}
NETNS=${DORMOUSE_CLUSTER_NETNS:-dormouse}
NODE=node1
NODE_IP=10.200.0.1       # carried by a bridge: the kubelet refuses a loopback address
POD_NET=10.244.0.0/16
SERVICE_NET=10.96.0.0/16
API_SERVICE_IP=10.96.0.1 # always the first address of SERVICE_NET
DNS_IP=10.96.0.10
SOCKET=$DIR/containerd/containerd.sock
CGROUP=$NETNS            # one cgroup below the root holds every pod of this cluster, so that `down` can find them all

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# Exit code 77: this machine cannot do it (not "it failed"); the last line says why. ./test lists such a suite as skipped.
cannot() { printf '%s\n' "$*" >&2; exit 77; }

need_root() { [ "$(id -u)" = 0 ] || cannot "needs root (network namespaces, mounts, cgroups)"; }
inside() { nsenter --net="/run/netns/$NETNS" "$@"; }

# need_packages PROGRAM=PACKAGE...: installs the Debian packages whose program is missing (a path counts as a program).
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    [ -e "${pair%%=*}" ] || command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || cannot "needs the packages ${missing[*]}, and installing them needs root"
  command -v apt-get >/dev/null || cannot "needs ${missing[*]}; no apt-get here to install them"
  say "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}
