# The namespace, the cgroup and the programs of the node. Sourced by up.sh, run in $DIR.
# shellcheck shell=bash

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt "$end" ] || die "$what did not come up; logs are in $DIR/log"
    sleep 0.2
  done
}

make_namespace() {
  ip netns add "$NETNS"
  inside ip link set lo up
  inside ip link add node0 type bridge
  inside ip addr add "$NODE_IP/32" dev node0
  inside ip link set node0 up
  inside ip route replace default dev node0
  inside sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
}

# The kubelet refuses a cgroup root that is not there in every hierarchy.
make_cgroup() {
  local root=/sys/fs/cgroup hierarchy file
  if [ -e $root/cgroup.controllers ]; then # version 2
    # In a container the root cgroup holds processes, and such a cgroup may not hand controllers down: move them.
    [ ! -e $root/cgroup.type ] || { mkdir -p $root/init; xargs -rn1 < $root/cgroup.procs > $root/init/cgroup.procs 2>/dev/null || true; }
    sed 's/^/+/; s/ / +/g' $root/cgroup.controllers > $root/cgroup.subtree_control || cannot "cannot hand cgroup controllers down in $root"
    mkdir -p "$root/$CGROUP"
    sed 's/^/+/; s/ / +/g' "$root/$CGROUP/cgroup.controllers" > "$root/$CGROUP/cgroup.subtree_control"
    return
  fi
  for hierarchy in "$root"/*/; do
    mkdir -p "$hierarchy$CGROUP"
    for file in cpuset.cpus cpuset.mems; do # empty in a new one, and then no process may enter
      [ ! -e "$hierarchy$file" ] || cat "$hierarchy$file" > "$hierarchy$CGROUP/$file"
    done
  done
}

# start NAME COMMAND...: in the background, in the namespace, without this script's lock.
start() {
  local name=$1; shift
  setsid nsenter --net="/run/netns/$NETNS" "$@" > "log/$name.log" 2>&1 < /dev/null 9>&- &
}

api_ready() { inside curl -s --cacert pki/ca.crt -H "Authorization: Bearer $(token admin)" https://127.0.0.1:6443/readyz | grep -qx ok; }

control_plane() {
  start etcd "$KIT/kube" etcd --data-dir etcd --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  start apiserver "$KIT/kube" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 \
    --advertise-address=$NODE_IP --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key \
    --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
    --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=$SERVICE_NET --allow-privileged=true \
    --client-ca-file=pki/ca.crt --requestheader-client-ca-file=pki/front.crt \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- --proxy-client-cert-file=pki/front.crt \
    --proxy-client-key-file=pki/front.key --enable-aggregator-routing=true \
    --kubelet-client-certificate=pki/kubelet-client.crt --kubelet-client-key=pki/kubelet-client.key \
    --kubelet-preferred-address-types=InternalIP
  wait_for 60 "the API server" api_ready
  # Eviction of pods and clean-up run at their usual pace: a test that passes here must pass on any cluster.
  start controller-manager "$KIT/kube" kube-controller-manager --kubeconfig=controller-manager.kubeconfig \
    --authentication-kubeconfig=controller-manager.kubeconfig --authorization-kubeconfig=controller-manager.kubeconfig \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt --cluster-signing-cert-file=pki/ca.crt \
    --cluster-signing-key-file=pki/ca.key --use-service-account-credentials --leader-elect=false --allocate-node-cidrs=false
  start scheduler "$KIT/kube" kube-scheduler --kubeconfig=scheduler.kubeconfig \
    --authentication-kubeconfig=scheduler.kubeconfig --authorization-kubeconfig=scheduler.kubeconfig --leader-elect=false
}

start_all() {
  start containerd env PATH="$KIT:$PATH" "$KIT/containerd" -c containerd/config.toml
  control_plane
  start kubelet "$KIT/kube" kubelet --kubeconfig=kubelet.kubeconfig --config=kubelet.yaml --hostname-override=$NODE \
    --node-ip=$NODE_IP --root-dir="$DIR/kubelet"
  # The conntrack sizes are left alone: they belong to the machine, and a namespace may not set them.
  start proxy "$KIT/kube" kube-proxy --kubeconfig=proxy.kubeconfig --proxy-mode=nftables --hostname-override=$NODE \
    --cluster-cidr=$POD_NET --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
  start coredns "$KIT/coredns" -conf Corefile
}

# What enforces NetworkPolicies. Of kube-router only the firewall: ptp routes, kube-proxy has the services. It ends at
# once where the node has not come up yet.
start_firewall() {
  start kube-router "$KIT/kube-router" --kubeconfig=admin.kubeconfig --hostname-override=$NODE \
    --run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false \
    --service-cluster-ip-range=$SERVICE_NET --health-port=0 --metrics-port=0
}
