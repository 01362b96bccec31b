#!/usr/bin/env python3
"""Writes a one-layer image as an OCI archive, with no Docker and no registry.

usage: oci.py OUT.tar NAME:TAG FOLDER USER ENTRYPOINT...

FOLDER becomes the root of the image. The same bytes in give the same archive out: times and owners are fixed, names
sorted. `ctr images import`, `kind load image-archive`, `docker load` and `podman load` all take it (the first two read
index.json, the others manifest.json)."""
import hashlib
import io
import json
import os
import platform
import sys
import tarfile


def entry(name: str, size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime, info.uid, info.gid = size, mode, 0, 0, 0
    return info


def layer(folder: str) -> bytes:
    """The folder as a plain tar, owned by root and writable by nobody else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(folders + files):
                full = os.path.join(path, name)
                info = tar.gettarinfo(full, os.path.relpath(full, folder))
                info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                if info.isreg():
                    info.mode = 0o755 if info.mode & 0o111 else 0o644
                    with open(full, "rb") as data:
                        tar.addfile(info, data)
                else:
                    tar.addfile(info)
    return buffer.getvalue()


def main(out: str, name: str, folder: str, user: str, *entrypoint: str) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return digest

    def described(kind: str, digest: str, **more: object) -> dict:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}",
                "size": len(blobs[digest]), **more}

    body = blob(layer(folder))
    config = blob(json.dumps({
        "architecture": machine, "os": "linux",
        "config": {"User": user, "Entrypoint": list(entrypoint), "Env": ["PATH=/bin", "MIMALLOC_ALLOW_THP=0"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{body}"]}, "history": [{"created_by": "oci.py"}],
    }).encode())
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", config), "layers": [described("layer.v1.tar", body)],
    }).encode())
    # The kubelet asks for `docker.io/...` when a manifest says a bare `dormouse/...`.
    full = name if "." in name.split("/")[0] or name.startswith("localhost/") else f"docker.io/{name}"
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [described("manifest.v1+json", manifest, annotations={
                "io.containerd.image.name": full, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]})]}).encode(),
        "manifest.json": json.dumps([{"Config": f"blobs/sha256/{config}", "RepoTags": [name],
                                      "Layers": [f"blobs/sha256/{body}"]}]).encode(),
        **{f"blobs/sha256/{digest}": data for digest, data in sorted(blobs.items())},
    }
    with tarfile.open(out + ".new", "w") as tar:
        for path, data in files.items():
            tar.addfile(entry(path, len(data)), io.BytesIO(data))
    os.replace(out + ".new", out)


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
