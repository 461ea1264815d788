#!/usr/bin/env bash
# Runs a driver on a throw-away pool image until Ctrl-C, and takes everything
# away again: mounts, loop devices, files.
#
#   hack/dev.sh DRIVER
#
# HOLDFAST_DEV_SIZE is the size of the pool (8Gi), HOLDFAST_DEV_HTTP the address
# of metrics and health (127.0.0.1:9808).
set -euo pipefail
driver=$(realpath "$1")
[ "$(id -u)" -eq 0 ] || { echo "$0: loop devices and mounts need root" >&2; exit 1; }

size=${HOLDFAST_DEV_SIZE:-8Gi}
http=${HOLDFAST_DEV_HTTP:-127.0.0.1:9808}
dir=$(mktemp -d /var/tmp/holdfast-dev-XXXXXX)
mkdir "$dir/kubelet" "$dir/pools"
pid=

# Prints the mount points below a directory, newest first.
mounts_below() {
  local rest
  while read -r _ _ _ _ path rest; do
    path=$(printf '%b' "$path")
    if [[ $path == "$1"/* ]]; then echo "$path"; fi
  done </proc/self/mountinfo | tac
}

# Prints the loop devices whose backing file is below a directory.
loops_below() {
  local file backing
  for file in /sys/block/loop*/loop/backing_file; do
    [ -r "$file" ] || continue
    read -r backing <"$file" || continue
    if [[ $backing == "$1"/* ]]; then echo "/dev/$(cut -d/ -f4 <<<"$file")"; fi
  done
}

remove() {
  trap - EXIT
  trap '' INT TERM
  if [ -n "$pid" ]; then
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
  fi
  echo
  echo "removing $dir"
  local what
  while read -r what; do umount "$what"; done < <(mounts_below "$dir/kubelet")
  # A block volume's loop device stays until somebody lets it go.
  while read -r what; do losetup -d "$what"; done < <(loops_below "$dir/pools/pool")
  while read -r what; do umount "$what"; done < <(mounts_below "$dir")
  for _ in $(seq 50); do
    [ -n "$(loops_below "$dir")" ] || break
    sleep 0.1
  done
  rm -rf --one-file-system "$dir"
  while read -r what; do
    echo "$what goes with the last process whose mount namespace has a copy of its mount"
  done < <(loops_below "$dir")
}
trap remove EXIT
trap 'exit 0' INT TERM

# In a process group of its own, so that Ctrl-C does not reach it before us.
set -m
"$driver" serve --endpoint="unix://$dir/csi.sock" --node-id=dev --kubelet-dir="$dir/kubelet" --state-dir="$dir/state" \
  --pool="$dir/pools" --pool-size="$size" --host-reserve=1 --http-endpoint="$http" -v 1 &
pid=$!
set +m

for _ in $(seq 100); do
  [ ! -S "$dir/csi.sock" ] || break
  sleep 0.1
done
cat <<TXT

A driver runs on a throw-away pool of $size. Its log follows. Ctrl-C ends it and removes everything.

  CSI socket      $dir/csi.sock
  kubelet's dir   $dir/kubelet (staging and target paths belong below it)
  pools           $driver pool status --state-dir=$dir/state
  metrics         curl http://$http/metrics
  conformance     go run github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity --csi.endpoint=$dir/csi.sock \\
                    --csi.mountdir=$dir/kubelet/target --csi.stagingdir=$dir/kubelet/staging
  a call          go run github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 -plaintext -unix \\
                    -import-path "\$(go list -m -f '{{.Dir}}' github.com/container-storage-interface/spec)" -proto csi.proto \\
                    $dir/csi.sock csi.v1.Controller/ListVolumes

TXT
wait "$pid"
