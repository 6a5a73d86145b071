#!/usr/bin/env bash
# Trains through SkyPilot as a managed job (launch/sky.yaml). Not run against a real cloud: launch/README.md.
#
#   launch/sky.sh launch|logs|cancel [--flag=value ...] [--dry_run] [-- train ...]
#
#   launch   start the job; SkyPilot finds capacity and starts it again after preemptions and after exit 75
#   logs     follow the log
#   cancel   end the job and its machines
#
# Flags; each is also an environment variable, --bucket is PIC_JAX_BUCKET:
#   --name=pic              of the job
#   --bucket=               required by launch: a Cloud Storage bucket, mounted at /mnt/pic_jax
#   --accelerators=H100:8   per node; or a TPU slice of one host, such as tpu-v6e-8
#   --nodes=1
#   --spot=1                0: on-demand capacity
#   --dry_run               print the commands, run nothing
#
# example:
#   launch/sky.sh launch --bucket=my-bucket --accelerators=H100:8 --nodes=2 --dry_run -- \
#       train --config=configs/own_data.py --workdir=/mnt/pic_jax/runs/pic \
#       --config.base=/mnt/pic_jax/models/llama --config.data.source=/mnt/pic_jax/notes.jsonl

set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

: "${PIC_JAX_NAME:=pic}" "${PIC_JAX_BUCKET:=}" "${PIC_JAX_ACCELERATORS:=H100:8}" "${PIC_JAX_NODES:=1}"
: "${PIC_JAX_SPOT:=1}"

launch() {
    local word spot=--use-spot extra=cuda
    ((PIC_JAX_SPOT)) || spot=--no-use-spot
    if [[ $PIC_JAX_ACCELERATORS == tpu-* ]]; then
        extra=tpu
        [[ $PIC_JAX_NODES == 1 ]] ||
            bad_usage "--nodes=$PIC_JAX_NODES: TPUs of one host only; for more, launch/tpu_vm.sh"
    fi
    for word in "${COMMAND[@]}"; do # sky.yaml splits the command at spaces
        [[ $(quoted "$word") == "$word" ]] || bad_usage "the command has a word that needs quotes: $word"
    done
    run sky jobs launch launch/sky.yaml --yes --name="$PIC_JAX_NAME" --gpus="$PIC_JAX_ACCELERATORS" \
        --num-nodes="$PIC_JAX_NODES" "$spot" --env=PIC_JAX_BUCKET="$PIC_JAX_BUCKET" --env=PIC_JAX_EXTRA="$extra" \
        --env=PIC_JAX_COMMAND="${COMMAND[*]}"
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit 0; }
verb=${1:-}
[[ " launch logs cancel " == *" $verb "* ]] || bad_usage "'$verb' is no verb"
parse 'name bucket accelerators nodes spot' "${@:2}"
one_of spot 0 1
at_least 1 nodes
case $verb in
    launch)
        required bucket
        check_command /mnt/pic_jax
        launch
        ;;
    logs) run sky jobs logs --name="$PIC_JAX_NAME" ;;
    cancel) run sky jobs cancel --name="$PIC_JAX_NAME" --yes ;;
esac
