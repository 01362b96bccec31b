#!/usr/bin/env bash
# The arrows of the house (ARCHITECTURE.md): what may depend on what, seen in what cargo really resolves.
. "$(dirname "$0")/lib.sh"
faults=0
fault() { printf '%s\n' "$*"; faults=1; }

# never CRATE PATTERN WHY: no crate matching the pattern (whole name) is in CRATE's tree.
never() {
  local found
  found=$(cargo tree --locked -q -p "$1" -e normal,build --prefix none --format '{p}' | cut -d' ' -f1 | sort -u | grep -xE "$2" || true)
  [ -z "$found" ] || fault "$1 reaches $(echo $found): $3"
}

# only CRATE ALLOWED...: of our own crates, CRATE depends directly on these at most.
only() {
  local crate=$1 found name; shift
  found=$(cargo tree --locked -q -p "$crate" -e normal,build --depth 1 --prefix none --format '{p}' | cut -d' ' -f1 | grep '^dormouse' | grep -vx "$crate" || true)
  for name in $found; do
    [[ " $* " == *" $name "* ]] || fault "$crate depends on $name; allowed: ${*:-none of ours}"
  done
}

never dormouse-core 'tokio|tokio-.*|hyper|hyper-util|axum|tonic|kube-client|kube-runtime|sled' 'the rules are pure: of kube only types and derive'
never dormouse-proto 'kube-client|kube-runtime|sled' 'the wire knows neither the cluster nor the store'
never dormouse-activator 'kube-client|kube-runtime|sled|dormouse-controller' 'the data path has no cluster rights and no store'
never dormouse-daemon 'kube-client|kube-runtime|sled' 'it is part of the activator too'
only dormouse-core
only dormouse-proto dormouse-core
only dormouse-daemon
only dormouse-activator dormouse-core dormouse-proto dormouse-daemon
only dormouse-controller dormouse-core dormouse-proto dormouse-daemon
only dormouse dormouse-core dormouse-proto dormouse-daemon dormouse-controller dormouse-activator

# The store is behind one door: only the ledger's own folder names sled.
while read -r file; do fault "$file names sled outside controller/src/ledger/"; done \
  < <(grep -rlE '\bsled::' --include='*.rs' core proto daemon controller activator cli tests | grep -v '^controller/src/ledger[/.]' || true)
[ $faults = 0 ] && echo "every arrow points where it should"
