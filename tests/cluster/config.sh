# Configuration files of the node's programs. Sourced by up.sh, run in $DIR.
# shellcheck shell=bash

# Pitfalls: machines that withhold CAP_SYS_RESOURCE need restrict_oom_score_adj; Debian's crun hangs under containerd 2,
# runc works; NRI's socket and the pods' network namespaces have fixed places that a second containerd would share.
containerd_config() {
  cat > containerd/config.toml <<T
version = 3
root = "$DIR/containerd/root"
state = "$DIR/containerd/state"
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.internal.v1.opt"]
  path = "$DIR/containerd/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$DIR/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "$(command -v runc)"
  SystemdCgroup = false
T
}

# One route per pod through the node (ptp) instead of a bridge: answers between pods of one bridge would pass the
# service rules by unless the module br_netfilter is there. No masquerading: nothing leaves the namespace.
cni_config() {
  cat > cni/10-pods.conflist <<J
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$DIR/cni/addresses", "ranges": [[{"subnet": "$POD_NET"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
J
}

kubelet_config() {
  cat > kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$SOCKET
podLogsDir: $DIR/log/pods
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
cgroupsPerQOS: true
enforceNodeAllocatable: []
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
failSwapOn: false
maxPods: 400
serializeImagePulls: false
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "200Mi"}
imageGCHighThresholdPercent: 100
Y
}

# CoreDNS runs on the node; pods reach it as the Service kube-dns (addons.yaml).
dns_config() {
  cat > Corefile <<C
.:53 {
    bind $NODE_IP
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $DIR/admin.kubeconfig dormouse
    }
}
C
}

# kubectl and helm that work from anywhere: they enter the namespace and know the cluster.
wrappers() {
  local name
  for name in kubectl helm; do
    cat > "bin/$name" <<W
#!/bin/sh
export KUBECONFIG="$DIR/admin.kubeconfig"
exec nsenter --net="/run/netns/$NETNS" "$KIT/$([ $name = kubectl ] && echo 'kube" kubectl' || echo "$name\"") "\$@"
W
    chmod +x "bin/$name"
  done
}
