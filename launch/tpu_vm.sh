#!/usr/bin/env bash
# Trains on a Cloud TPU slice, one host or many, through gcloud. Not run against a real cloud: launch/README.md.
#
#   launch/tpu_vm.sh create|setup|run|logs|stop|delete|spot [--flag=value ...] [--dry_run] [-- train ...]
#
#   create   queue for a slice and wait until it is there
#   setup    send the commit HEAD to all workers, mount the storage at /mnt/pic_jax, install pic_jax
#   run      start `pic-jax train ...` on all workers and follow it; run again to follow it after a lost connection
#   logs     follow the log of one worker
#   stop     SIGTERM to the training: it saves a checkpoint and exits 75
#   delete   delete the slice and its place in the queue
#   spot     create, setup and run; when the slice is preempted, or the training exits 75 (checkpoint saved) or dies
#            by a signal, delete the slice and do it again with the same command; end with it on exit 0, 1 or 2
#
# Flags; each is also an environment variable, --zone is PIC_JAX_ZONE:
#   --name=pic             of the slice and of its queued resource
#   --zone=us-west4-a      required
#   --project=             gcloud's own by default
#   --type=v5litepod-16    accelerator type: v5litepod-N and v6e-N count chips, v5p-N two cores per chip
#   --version=             runtime version; by default the one for the type
#   --capacity=on_demand   on_demand, spot (what `spot` always takes) or reserved
#   --nfs=10.0.0.2:/share  the storage of --workdir: an NFS server (Filestore) ...
#   --bucket=NAME          ... or a bucket, mounted with gcsfuse; it needs a hierarchical namespace
#   --worker=0             whose log
#   --keep=0               1: spot leaves the last slice in place (it costs until deleted)
#   --max_crashes=3        spot: failures in a row, other than preemptions, before it gives up
#   --poll=30              seconds between questions about the state of the slice
#   --dry_run              print the commands, run nothing
#
# --workdir has to be below /mnt/pic_jax: pic_jax writes to file paths, and gs:// is none.
# Exit codes: that of the training (0, 1, 2, 75 or 134); 2 for wrong flags; otherwise 1 or that of gcloud.
#
# example:
#   launch/tpu_vm.sh spot --name=pic --zone=us-west4-a --type=v5litepod-16 --nfs=10.0.0.2:/share --dry_run -- \
#       train --config=configs/own_data.py --workdir=/mnt/pic_jax/runs/pic \
#       --config.base=/mnt/pic_jax/models/llama --config.data.source=/mnt/pic_jax/notes.jsonl

set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

MOUNT=/mnt/pic_jax
: "${PIC_JAX_NAME:=pic}" "${PIC_JAX_PROJECT:=}" "${PIC_JAX_TYPE:=v5litepod-16}" "${PIC_JAX_VERSION:=}"
: "${PIC_JAX_CAPACITY:=on_demand}" "${PIC_JAX_NFS:=}" "${PIC_JAX_BUCKET:=}" "${PIC_JAX_WORKER:=0}"
: "${PIC_JAX_KEEP:=0}" "${PIC_JAX_MAX_CRASHES:=3}" "${PIC_JAX_POLL:=30}"

runtime_version() {
    case $PIC_JAX_TYPE in
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v6e-*) echo v2-alpha-tpuv6e ;;
        v[234]-*) echo tpu-ubuntu2204-base ;;
        *) bad_usage "--type=$PIC_JAX_TYPE: no runtime version is known for it; give --version" ;;
    esac
}

tpus() { # run or ask, group, verb, arguments
    "$1" gcloud compute tpus "$2" "$3" "${@:4}" --zone="$PIC_JAX_ZONE" ${PIC_JAX_PROJECT:+--project="$PIC_JAX_PROJECT"}
}

on_workers() { tpus run tpu-vm ssh "$PIC_JAX_NAME" --worker="$1" --command="$2"; }

# REPLY becomes READY, PREEMPTED, ..., or nothing where there is no such slice. Fails where gcloud gets no answer.
slice_state() { tpus ask tpu-vm list --filter="name ~ /$PIC_JAX_NAME\$" --format='value(state)'; }

create() {
    local capacity=() unanswered=0
    [[ $PIC_JAX_CAPACITY == on_demand ]] || capacity=("--$PIC_JAX_CAPACITY")
    tpus run queued-resources create "$PIC_JAX_NAME" --node-id="$PIC_JAX_NAME" --accelerator-type="$PIC_JAX_TYPE" \
        --runtime-version="$PIC_JAX_VERSION" "${capacity[@]}" || return 1
    while true; do
        tpus ask queued-resources describe "$PIC_JAX_NAME" --format='value(state.state)' ||
            ((++unanswered < 5)) || return 1
        case $REPLY in
            ACTIVE) return ;;
            FAILED | SUSPENDING | SUSPENDED | DELETING) say "the request for $PIC_JAX_NAME is $REPLY" && return 1 ;;
        esac
        ((DRY_RUN)) && echo "# ... until it prints ACTIVE" && return
        sleep "$PIC_JAX_POLL"
    done
}

# The archive is made once, so that a slice made again trains with the same code.
ARCHIVE=${TMPDIR:-/tmp}/pic_jax-$PIC_JAX_NAME.tar.gz
pack() {
    git diff --quiet HEAD || say 'changes that are not committed are not sent'
    run git archive --format=tar.gz --output="$ARCHIVE" HEAD
}

setup() {
    local storage=()
    [[ -z $PIC_JAX_NFS ]] || storage=(nfs "$PIC_JAX_NFS")
    [[ -z $PIC_JAX_BUCKET ]] || storage=(bucket "$PIC_JAX_BUCKET")
    tpus run tpu-vm scp "$ARCHIVE" "$PIC_JAX_NAME:pic_jax.tar.gz" --worker=all || return
    on_workers all "rm -rf pic_jax && mkdir pic_jax && tar -xzf pic_jax.tar.gz -C pic_jax &&\
 $(quoted pic_jax/launch/tpu_worker.sh setup "${storage[@]}")"
}

# GCE does not say in the environment that a host is one of several, so jax.distributed is asked for.
train() { # ID
    local extra=(--distributed=on) word code=0
    for word in "${COMMAND[@]}"; do
        [[ $word != --distributed=* ]] || extra=()
    done
    on_workers all "$(quoted pic_jax/launch/tpu_worker.sh run "$1" "${COMMAND[@]}" "${extra[@]}")" || code=$?
    return $code
}

delete() { tpus run queued-resources delete "$PIC_JAX_NAME" --force --quiet; }

new_id() { date +%Y%m%d-%H%M%S; }

# The training's own 1 and 2 arrive as 101 and 102.
training_code() { (($1 == 101 || $1 == 102)) && echo $(($1 - 100)) || echo "$1"; }

finish() { # exit code
    if ((PIC_JAX_KEEP)); then
        say "slice $PIC_JAX_NAME still exists and costs: $0 delete"
    else
        delete || say "slice $PIC_JAX_NAME could not be deleted and may cost"
    fi
    exit "$1"
}

# One life of a slice; one that is READY already is used as it is. Fails with 70 where there is no slice to be had.
live() { # ID
    slice_state || return 255
    if [[ $REPLY != READY ]]; then
        delete || true # what is left of the one before; usually nothing
        create || return 70
        setup || return
    fi
    train "$1"
}

spot() {
    local crashes=0 code id
    id=$(new_id)
    trap 'say "interrupted; slice $PIC_JAX_NAME may exist and cost: $0 delete"; exit 1' INT TERM
    while true; do
        code=0
        live "$id" || code=$?
        if ((DRY_RUN)); then
            echo '# preempted, exit 75 or killed: the same again. Exit 0, 1 or 2:'
            finish 0
        fi
        case $code in
            0) finish 0 ;;
            75) say 'stopped with a checkpoint: again on a new slice' && crashes=0 ;;
            101 | 102) sleep "$PIC_JAX_POLL" ;; # a lost slice takes a while to show
        esac
        until slice_state; do sleep "$PIC_JAX_POLL"; done
        if [[ $code != 75 && $code != 70 && $REPLY != READY ]]; then
            say "slice ${REPLY:-GONE}: again on a new one" && crashes=0
        elif ((code == 101 || code == 102)); then
            say "the training failed with exit code $((code - 100))"
            finish $((code - 100))
        elif ((code != 75)); then
            say "failed with exit code $code" && ((++crashes))
            ((crashes < PIC_JAX_MAX_CRASHES)) || finish 1
            sleep "$PIC_JAX_POLL"
        fi
        # 1, 2 and 255 are gcloud and ssh: the slice is well, and the training may still run on it.
        [[ $REPLY == READY && $code =~ ^(1|2|255)$ ]] && continue
        delete || true
        id=$(new_id)
    done
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit 0; }
verb=${1:-}
[[ " create setup run logs stop delete spot " == *" $verb "* ]] || bad_usage "'$verb' is no verb"
parse 'name zone project type version capacity nfs bucket worker keep max_crashes poll' "${@:2}"
required zone
one_of capacity on_demand spot reserved
one_of keep 0 1
at_least 0 poll
at_least 1 max_crashes
[[ -z $PIC_JAX_NFS || -z $PIC_JAX_BUCKET ]] || bad_usage '--nfs and --bucket: only one of them'
[[ -n $PIC_JAX_VERSION ]] || PIC_JAX_VERSION=$(runtime_version) || exit
case $verb in
    create | delete) "$verb" ;;
    setup) pack && setup ;;
    run)
        check_command $MOUNT
        code=0
        train "$(new_id)" || code=$?
        exit "$(training_code $code)"
        ;;
    logs) on_workers "$PIC_JAX_WORKER" 'pic_jax/launch/tpu_worker.sh logs' ;;
    stop) on_workers all 'pic_jax/launch/tpu_worker.sh stop' ;;
    spot)
        check_command $MOUNT
        [[ -n $PIC_JAX_NFS$PIC_JAX_BUCKET ]] ||
            bad_usage '--nfs or --bucket is missing: checkpoints must outlive the slice'
        PIC_JAX_CAPACITY=spot
        pack
        spot
        ;;
esac
