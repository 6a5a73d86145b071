#!/usr/bin/env bash
# What tpu_vm.sh starts on every worker of a slice: setup | run ID ARGUMENTS... | logs | stop.
#
#   setup [nfs SERVER:/SHARE | bucket NAME]   mount that at /mnt/pic_jax, install pic_jax
#   run ID train --config=... --workdir=...   start `pic-jax train ...` in the background and follow it to its end
#   logs                                      follow the log
#   stop                                      SIGTERM: the training saves a checkpoint and exits 75
#
# A lost connection neither ends a training nor starts a second one: run with an ID that has run, or while something
# runs, follows that. It exits as pic-jax did, with 101 and 102 for 1 and 2, which are gcloud's own failures.

set -euo pipefail
cd "$(dirname "$0")/.."

mount=/mnt/pic_jax
venv=$HOME/pic_jax_venv
state=$HOME/pic_jax_run

mount_storage() {
    sudo mkdir -p $mount
    if [[ $1 == nfs ]]; then
        command -v mount.nfs >/dev/null || { sudo apt-get update -q && sudo apt-get install -q -y nfs-common; }
        sudo mount -t nfs -o hard "$2" $mount
        sudo chmod 1777 $mount
    else
        command -v gcsfuse >/dev/null || install_gcsfuse
        sudo chown "$(id -u):$(id -g)" $mount
        # No metadata is cached: every host must see at once what another has written.
        gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$2" $mount
    fi
}

install_gcsfuse() {
    local version=${GCSFUSE_VERSION:-3.4.4}
    curl --fail --silent --show-error --location --output /tmp/gcsfuse.deb \
        "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$version/gcsfuse_${version}_amd64.deb"
    sudo apt-get update -q && sudo apt-get install -q -y fuse /tmp/gcsfuse.deb
}

setup() {
    if (($#)) && ! mountpoint -q $mount; then mount_storage "$@"; fi
    # The images of TPU VMs have Python 3.10; pic_jax needs 3.11.
    python3 -m pip install --user --quiet uv
    ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 "$venv"
    ~/.local/bin/uv pip install --quiet --python "$venv/bin/python" --build-constraint constraints.txt \
        --constraint constraints.txt --editable '.[tpu]'
}

running() { [[ -s $state/pid ]] && kill -0 "$(<"$state/pid")" 2>/dev/null; }

# The trap keeps this shell alive through SIGTERM, until the training has saved and its exit code is known.
start() {
    rm -f "$state/exit_code"
    : >"$state/log" # there before anything follows it
    printf '%s' "$1" >"$state/id"
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$mount/jax_cache}
    # A host's memory stays flat (README, What it survives).
    export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-2} MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1048576}
    # shellcheck disable=SC2016
    setsid nohup bash -c 'trap : TERM; "${@:2}"; echo $? >"$1"' bash "$state/exit_code" \
        "$venv/bin/pic-jax" "${@:2}" >>"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
}

run() {
    mkdir -p "$state"
    running || [[ -f $state/exit_code && $(<"$state/id") == "$1" ]] || start "$@"
    tail -n +1 --pid="$(<"$state/pid")" -f "$state/log"
    [[ -f $state/exit_code ]] || exit 137
    local code
    code=$(<"$state/exit_code")
    exit $((code == 1 || code == 2 ? code + 100 : code))
}

case ${1:-} in
    setup) setup "${@:2}" ;;
    run) run "${@:2}" ;;
    logs) exec tail -n +1 -F "$state/log" ;;
    stop) running && kill -TERM -- "-$(<"$state/pid")" ;;
    *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
