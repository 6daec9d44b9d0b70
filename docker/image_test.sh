#!/usr/bin/env bash
# Builds the image, runs it the way it should be run (read-only, non-root, no capabilities, bounded memory) and makes one
# call through the API. Works with podman or docker; leaves nothing running.
#
#   ENGINE=podman|docker   the container engine (default: whichever is there, podman first)
#   BASE_IMAGE=...         the base image (default: the public python:3.11-slim-bookworm; where that cannot be pulled, a
#                          stand-in of Debian 12 with its own Python 3.11, made with mmdebstrap; needs root)
#   WHEELS=DIR             a folder of wheels that pip shall prefer, mounted into the build (podman only; default: the
#                          folder in PIP_FIND_LINKS, if that names one)
#   TORCH_INDEX=URL        the index with the CPU build of torch (default: the Dockerfile's; empty when WHEELS is set)
#   KEEP=1                 leave the container for a look
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-$(command -v podman || command -v docker || true)}
[ -n "$ENGINE" ] || { echo "Needs podman or docker. On Debian: apt-get install podman"; exit 2; }
IMAGE=localhost/knotcast:test
NAME=knotcast-image-test-$$
PORT=${PORT:-18080}
PUBLIC_BASE=docker.io/library/python:3.11-slim-bookworm
STAND_IN=localhost/python:3.11-slim-bookworm
WORK=$(mktemp -d)
PYTHON=${PYTHON:-.venv/bin/python}

is_podman() { [[ $("$ENGINE" --version) == podman* ]]; }
say() { printf '== %s\n' "$*"; }
fail() {
  printf 'image test failed: %s\n' "$*" >&2
  "$ENGINE" logs "$NAME" 2>&1 | tail -n 40 >&2 || true
  exit 1
}
cleanup() {
  if [ -z "${KEEP:-}" ]; then "$ENGINE" rm -f "$NAME" >/dev/null 2>&1 || true; fi
  rm -rf "$WORK"
}
trap cleanup EXIT

# Podman in a machine without systemd or with old control groups needs to be told; nothing outside this folder is edited.
if is_podman && [ -z "${CONTAINERS_CONF:-}" ]; then
  {
    printf '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n[engine]\nevents_logger = "file"\n'
    [ -d /run/systemd/system ] || printf 'cgroup_manager = "cgroupfs"\n'
    if [ ! -f /sys/fs/cgroup/cgroup.controllers ] && command -v runc >/dev/null; then printf 'runtime = "runc"\n'; fi
    if [ -x /usr/lib/podman/netavark ]; then printf '[network]\nnetwork_backend = "netavark"\n'; fi
  } > "$WORK/containers.conf"
  export CONTAINERS_CONF=$WORK/containers.conf
fi

make_stand_in() { # this host's apt sources and certificates go into it: for tests only, never publish it
  command -v mmdebstrap >/dev/null || { echo "$PUBLIC_BASE cannot be pulled and mmdebstrap is missing"; exit 2; }
  say "base image: a stand-in from Debian's packages"
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -f "$1"/usr/lib/python3.*/EXTERNALLY-MANAGED; ln -s /usr/bin/python3 "$1"/usr/local/bin/python' \
    --customize-hook='upload /etc/ssl/certs/ca-certificates.crt /etc/host-ca.crt' \
    --customize-hook='printf "[global]\ncert = /etc/host-ca.crt\n" > "$1"/etc/pip.conf' bookworm "$WORK/base.tar"
  "$ENGINE" import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' "$WORK/base.tar" "$STAND_IN"
  rm "$WORK/base.tar"
}

if [ -z "${BASE_IMAGE:-}" ]; then
  if "$ENGINE" image inspect "$STAND_IN" >/dev/null 2>&1; then
    BASE_IMAGE=$STAND_IN
  elif "$ENGINE" image inspect "$PUBLIC_BASE" >/dev/null 2>&1 || "$ENGINE" pull -q "$PUBLIC_BASE"; then
    BASE_IMAGE=$PUBLIC_BASE
  else
    make_stand_in
    BASE_IMAGE=$STAND_IN
  fi
fi

say "build on $BASE_IMAGE"
build=(build --build-arg "BASE_IMAGE=$BASE_IMAGE" -t "$IMAGE")
# podman drops HEALTHCHECK from its own image format
if is_podman; then build+=(--format docker --pull=never); fi
WHEELS=${WHEELS-${PIP_FIND_LINKS:-}}
if [ -d "$WHEELS" ]; then
  is_podman || { echo "WHEELS needs podman"; exit 2; }
  build+=(-v "$(realpath "$WHEELS"):/wheels:ro" --env PIP_FIND_LINKS=/wheels)
  TORCH_INDEX=${TORCH_INDEX:-}
fi
if [ -n "${TORCH_INDEX+set}" ]; then build+=(--build-arg "TORCH_INDEX=$TORCH_INDEX"); fi
began=$SECONDS
"$ENGINE" "${build[@]}" .
say "built in $((SECONDS - began)) s, $("$ENGINE" image inspect --format '{{.Size}}' "$IMAGE" | awk '{printf "%.0f MB", $1 / 1e6}')"

say "run: read-only, uid 10001, no capabilities, 2 GB"
began=$SECONDS
KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
"$ENGINE" run -d --name "$NAME" -p "127.0.0.1:$PORT:8000" --read-only --tmpfs /tmp:rw,noexec,nosuid,size=256m \
  --cap-drop all --security-opt no-new-privileges --memory 2g --pids-limit 256 \
  -e "KNOTCAST_API_KEYS=[\"$KEY\"]" "$IMAGE" >/dev/null

until curl -fsS -o "$WORK/ready.json" "http://127.0.0.1:$PORT/ready" 2>/dev/null; do
  [ "$("$ENGINE" inspect --format '{{.State.Running}}' "$NAME")" = true ] || fail "the container ended"
  [ $((SECONDS - began)) -lt 120 ] || fail "not ready after 120 s"
  sleep 0.5
done
say "ready after $((SECONDS - began)) s: $(head -c 300 "$WORK/ready.json")"

status=$("$ENGINE" exec "$NAME" cat /proc/1/status)
[ "$(awk '/^Uid:/ {print $2}' <<<"$status")" = 10001 ] || fail "not uid 10001"
[ "$(awk '/^CapEff:/ {print $2}' <<<"$status")" = 0000000000000000 ] || fail "capabilities left"
[ "$(awk '/^NoNewPrivs:/ {print $2}' <<<"$status")" = 1 ] || fail "new privileges possible"
if "$ENGINE" exec "$NAME" touch /opt/knotcast/x 2>/dev/null; then fail "the file system can be written"; fi
if "$ENGINE" exec "$NAME" find / -xdev -iname '*espeak*' -print 2>/dev/null | grep .; then fail "espeak-ng (GPL) in the image"; fi
[ "$("$ENGINE" inspect --format '{{json .Config.Healthcheck}}' "$NAME")" != null ] || fail "no health check in the image"
"$ENGINE" exec "$NAME" python /opt/knotcast/healthcheck.py || fail "the health check fails"

say "one call through the API"
"$PYTHON" docker/smoke_call.py --url "http://127.0.0.1:$PORT" --key "$KEY" || fail "the call"
say "memory: $("$ENGINE" stats --no-stream --format '{{.MemUsage}}' "$NAME")"

say "stop"
began=$SECONDS
"$ENGINE" stop -t 20 "$NAME" >/dev/null
code=$("$ENGINE" inspect --format '{{.State.ExitCode}}' "$NAME")
# uvicorn raises the signal again after an orderly shutdown, hence 143
case $code in 0 | 143) ;; *) fail "exit code $code after SIGTERM" ;; esac
say "stopped in $((SECONDS - began)) s, exit code $code"
echo "image test passed"
