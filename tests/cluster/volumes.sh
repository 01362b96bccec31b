#!/usr/bin/env bash
# 20 volumes of the default StorageClass, each a folder of the node: there is no provisioner here. A volume whose claim
# is gone is emptied and offered again. World-writable, because Kubernetes does not apply fsGroup to hostPath.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd)/env.sh"
kubectl=$DIR/bin/kubectl
for name in $("$kubectl" get pv -o 'jsonpath={range .items[?(@.status.phase=="Released")]}{.metadata.name}{"\n"}{end}'); do
  "$kubectl" delete pv "$name" >/dev/null
  rm -rf "${DIR:?}/volumes/$name"
done
for i in $(seq -w 20); do
  mkdir -p -m 777 "$DIR/volumes/v$i"
  cat <<Y
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: v$i}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: standard
  hostPath: {path: $DIR/volumes/v$i}
Y
done | "$kubectl" apply -f - >/dev/null
