# Certificates, tokens and kubeconfigs of one cluster. Sourced by up.sh, run in $DIR.
#
# Everything lives 30 days and is made anew with each fresh state folder, so nothing can expire in a cached one.
# Pitfalls: the aggregation layer wants a front-proxy CA of its own; `kubectl logs` and `exec` want a client certificate
# for the kubelet; the API server's certificate must name the first service address, or clients inside pods refuse it.
# shellcheck shell=bash

EC=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)

# authority NAME SUBJECT: a self-signed CA.
authority() { openssl req -x509 "${EC[@]}" -days 30 -keyout "pki/$1.key" -out "pki/$1.crt" -subj "$2" 2>/dev/null; }

# leaf NAME SUBJECT EXTENSIONS: a certificate signed by pki/ca.
leaf() {
  openssl req "${EC[@]}" -keyout "pki/$1.key" -out "pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 30 \
    -extfile <(echo "$3") -out "pki/$1.crt" 2>/dev/null
}

# token USER: a random bearer token, the same each time.
token() {
  [ -s "pki/$1.token" ] || od -An -tx1 -N24 /dev/urandom | tr -d ' \n' > "pki/$1.token"
  cat "pki/$1.token"
}

kubeconfig() {
  cat > "$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: dormouse, cluster: {server: "https://127.0.0.1:6443", certificate-authority: $DIR/pki/ca.crt}}]
users: [{name: $1, user: {token: $(token "$1")}}]
contexts: [{name: dormouse, context: {cluster: dormouse, user: $1}}]
current-context: dormouse
Y
}

make_pki() {
  umask 077
  authority ca /CN=dormouse-test
  authority front /CN=front-proxy
  leaf api /CN=kube-apiserver "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$API_SERVICE_IP,IP:$NODE_IP"
  leaf kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client extendedKeyUsage=clientAuth
  openssl ecparam -name prime256v1 -genkey -noout -out pki/sa.key
  openssl ec -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
  cat > pki/tokens.csv <<T
$(token admin),admin,admin,"system:masters"
$(token controller-manager),system:kube-controller-manager,controller-manager
$(token scheduler),system:kube-scheduler,scheduler
$(token proxy),system:kube-proxy,proxy
$(token kubelet),system:node:$NODE,kubelet,"system:nodes"
T
  local user
  for user in admin controller-manager scheduler proxy kubelet; do kubeconfig "$user"; done
  umask 022
}
