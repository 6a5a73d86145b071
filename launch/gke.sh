#!/usr/bin/env bash
# Trains on one TPU slice of a GKE cluster, as a JobSet. Not run against a real cluster: launch/README.md.
#
#   launch/gke.sh apply|status|logs|delete [--flag=value ...] [--dry_run] [-- train ...]
#
#   apply    fill in launch/gke_jobset.yaml and apply it; Kubernetes restarts the training from then on
#   status   the JobSet and its pods
#   logs     follow the logs of all pods
#   delete   delete the JobSet; the training saves a checkpoint first. The node pool stays, and costs
#
# Flags; each is also an environment variable, --image is PIC_JAX_IMAGE:
#   --name=pic                          of the JobSet
#   --namespace=default
#   --image=                            required by apply: built from launch/Dockerfile
#   --accelerator=tpu-v5-lite-podslice  or tpu-v5p-slice, tpu-v6e-slice: label of the nodes
#   --topology=4x4                      chips of the slice: label of the nodes
#   --chips=4                           chips per host (machine type *-4t has 4)
#   --claim=pic-jax                     persistent volume claim (ReadWriteMany), mounted at /mnt/pic_jax
#   --spot=0                            1: only on spot nodes
#   --max_restarts=10                   restarts that are no preemption and no exit 75, before it fails
#   --dry_run                           print the commands, run nothing
#
# example:
#   launch/gke.sh apply --name=pic --image=REGISTRY/pic_jax:tpu --topology=4x4 --dry_run -- \
#       train --config=configs/own_data.py --workdir=/mnt/pic_jax/runs/pic \
#       --config.base=/mnt/pic_jax/models/llama --config.data.source=/mnt/pic_jax/notes.jsonl

set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

: "${PIC_JAX_NAME:=pic}" "${PIC_JAX_NAMESPACE:=default}" "${PIC_JAX_IMAGE:=}"
: "${PIC_JAX_ACCELERATOR:=tpu-v5-lite-podslice}" "${PIC_JAX_TOPOLOGY:=4x4}" "${PIC_JAX_CHIPS:=4}"
: "${PIC_JAX_CLAIM:=pic-jax}" "${PIC_JAX_SPOT:=0}" "${PIC_JAX_MAX_RESTARTS:=10}"

# The words of the command as a JSON list, which is YAML.
json() {
    local word list=()
    for word in "$@"; do
        [[ $word != *[[:cntrl:]]* ]] || bad_usage 'the command has a line break or another control character'
        word=${word//\\/\\\\}
        list+=("\"${word//\"/\\\"}\"")
    done
    local IFS=,
    printf '[%s]' "${list[*]}"
}

hosts() {
    [[ $PIC_JAX_TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
        bad_usage "--topology=$PIC_JAX_TOPOLOGY: not like 4x4 or 4x4x4"
    [[ $PIC_JAX_CHIPS =~ ^[1248]$ ]] || bad_usage "--chips=$PIC_JAX_CHIPS: not 1, 2, 4 or 8"
    local chips=$((${PIC_JAX_TOPOLOGY//x/*}))
    ((chips % PIC_JAX_CHIPS == 0)) ||
        bad_usage "--topology=$PIC_JAX_TOPOLOGY has $chips chips, no multiple of --chips=$PIC_JAX_CHIPS"
    echo $((chips / PIC_JAX_CHIPS))
}

render() {
    local text name value
    local -A values=(
        [NAME]=$PIC_JAX_NAME [NAMESPACE]=$PIC_JAX_NAMESPACE [IMAGE]=$PIC_JAX_IMAGE [CLAIM]=$PIC_JAX_CLAIM
        [ACCELERATOR]=$PIC_JAX_ACCELERATOR [TOPOLOGY]=$PIC_JAX_TOPOLOGY [CHIPS]=$PIC_JAX_CHIPS
        [MAX_RESTARTS]=$PIC_JAX_MAX_RESTARTS
    )
    values[HOSTS]=$(hosts) || exit
    values[COMMAND]=$(json "${COMMAND[@]}") || exit
    text=$(if ((PIC_JAX_SPOT)); then cat launch/gke_jobset.yaml; else sed '/# spot$/d' launch/gke_jobset.yaml; fi)
    text=${text#*$'\n'*$'\n'} # the two lines about the template
    for name in NAME NAMESPACE IMAGE CLAIM ACCELERATOR TOPOLOGY CHIPS MAX_RESTARTS HOSTS COMMAND; do
        value=${values[$name]}
        text=${text//"\${$name}"/"$value"}
    done
    printf '%s\n' "$text"
}

apply() {
    local text
    text=$(render) || exit
    if ((DRY_RUN)); then
        printf "kubectl apply --filename=- <<'EOF'\n%s\nEOF\n" "$text"
    else
        kubectl apply --filename=- <<<"$text"
    fi
}

[[ ${1:-} != --help && ${1:-} != -h ]] || { usage && exit 0; }
verb=${1:-}
[[ " apply status logs delete " == *" $verb "* ]] || bad_usage "'$verb' is no verb"
parse 'name namespace image accelerator topology chips claim spot max_restarts' "${@:2}"
one_of spot 0 1
at_least 0 max_restarts
selector=jobset.sigs.k8s.io/jobset-name=$PIC_JAX_NAME
case $verb in
    apply)
        required image
        [[ $PIC_JAX_NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
            bad_usage "--name=$PIC_JAX_NAME: not up to 40 lower-case letters, digits and -"
        check_command /mnt/pic_jax
        apply
        ;;
    status)
        run kubectl get jobset "$PIC_JAX_NAME" --namespace="$PIC_JAX_NAMESPACE"
        run kubectl get pods --selector="$selector" --namespace="$PIC_JAX_NAMESPACE" --output=wide
        ;;
    logs)
        pods=$(hosts) || exit
        run kubectl logs --follow --prefix --max-log-requests="$pods" --selector="$selector" \
            --namespace="$PIC_JAX_NAMESPACE"
        ;;
    delete) run kubectl delete jobset "$PIC_JAX_NAME" --namespace="$PIC_JAX_NAMESPACE" ;;
esac
