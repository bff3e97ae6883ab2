#!/usr/bin/env bash
# Builds the image and runs it, with Debian's buildah and podman, as root and without any engine:
# what `docker build` and `docker run` do, where no image can be pulled. Not part of `make check`.
#
#   apt-get install --no-install-recommends buildah podman runc mmdebstrap && tests/image/check.sh
#
# The stand-in for the official Python image is Debian trixie, whose Python is 3.13 as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in buildah podman runc mmdebstrap; do
    command -v "$program" >/dev/null || { echo "skipped: no $program" >&2; exit 77; }
done
base=localhost/bigbrotr-base
image=localhost/bigbrotr-check
name=bigbrotr-check-$$
work=$(mktemp -d)
build=(buildah --storage-driver vfs)
run=(podman --storage-driver vfs --runtime "$(command -v runc)" --cgroup-manager cgroupfs)
# Where the network is seen through a proxy with a CA of its own.
trust=/etc/ssl/certs/ca-certificates.crt
finish() {
    "${run[@]}" rm --force --time 1 --volumes "$name" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

if ! "${build[@]}" inspect "$base" >/dev/null 2>&1; then
    echo "making the base image"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
        trixie "$work/base.tar"
    scratch=$("${build[@]}" from scratch)
    "${build[@]}" add --quiet "$scratch" "$work/base.tar" / >/dev/null
    "${build[@]}" commit --quiet "$scratch" "$base" >/dev/null
    "${build[@]}" rm "$scratch" >/dev/null
fi

echo "building"
"${build[@]}" build --quiet --isolation chroot --pull-never --layers=false --format docker \
    --build-arg "BASE=$base" -v "$trust:$trust:ro" -t "$image" . >/dev/null
"${build[@]}" inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Healthcheck.Test}}' "$image"

echo "running, read-only and without capabilities"
"${run[@]}" run --detach --name "$name" --no-healthcheck --network none --read-only --cap-drop=all \
    --security-opt no-new-privileges --tmpfs /tmp --volume "$name:/var/lib/bigbrotr:U" \
    --ulimit nofile=1024:20000 --ulimit nproc=4096:4096 "$image" >/dev/null
well=""
for _ in $(seq 120); do
    if "${run[@]}" exec "$name" bigbrotr health >"$work/health" 2>&1; then well=yes; break; fi
    sleep 0.5
done
"${run[@]}" logs "$name" 2>&1 | tail -20
[ -n "$well" ] || { echo "it did not get well: $(cat "$work/health")" >&2; exit 1; }
"${run[@]}" exec "$name" bigbrotr status
test "$("${run[@]}" exec "$name" id -u)" = 10001
test "$("${run[@]}" exec "$name" cat /proc/1/comm)" = tini
"${run[@]}" stop --time 60 "$name" >/dev/null
test "$("${run[@]}" inspect --format '{{.State.ExitCode}}' "$name")" = 0
"${run[@]}" volume rm "$name" >/dev/null 2>&1 || true
"${run[@]}" images --format '{{.Repository}} {{.Size}}' "$image"
echo "the image is well"
