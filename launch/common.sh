# shellcheck shell=bash
# Sourced by tpu_vm.sh, gke.sh and sky.sh: flags, messages, and the one place where commands are printed or run.

((BASH_VERSINFO[0] >= 5)) || { echo "$0: error: needs bash 5 or newer, this is $BASH_VERSION" >&2; exit 2; }

DRY_RUN=0
COMMAND=()

# The comment at the top of the script is its help. Scripts have gone to the root of the repository.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "launch/${0##*/}"; }

say() { printf '%s: %s\n' "${0##*/}" "$1" >&2; }

bad_usage() {
    say "error: $1 (--help lists what is valid)"
    exit 2
}

# Words as a shell would have to be given them, quoted only where needed.
quoted() {
    local word line=()
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] && line+=("$word") || line+=("${word@Q}")
    done
    printf '%s' "${line[*]}"
}

# Runs a command; under --dry_run prints it instead.
run() {
    if ((DRY_RUN)); then
        quoted "$@"
        echo
    else
        "$@"
    fi
}

# Puts what a command prints into REPLY; under --dry_run prints the command and leaves REPLY empty.
ask() {
    REPLY=
    if ((DRY_RUN)); then run "$@"; else REPLY=$("$@"); fi
}

# parse 'FLAG...' ARGUMENTS...: --flag=value becomes PIC_JAX_FLAG, and what follows -- becomes COMMAND.
parse() {
    local flags=$1 key
    shift
    while (($#)); do
        case $1 in
            --) COMMAND=("${@:2}") && return ;;
            --dry_run) DRY_RUN=1 ;;
            --help | -h) usage && exit 0 ;;
            --*=*)
                key=${1%%=*} && key=${key#--}
                [[ " $flags " == *" $key "* ]] || bad_usage "unknown flag --$key"
                printf -v "PIC_JAX_${key^^}" '%s' "${1#*=}"
                ;;
            *) bad_usage "unknown argument $1" ;;
        esac
        shift
    done
}

# required FLAG...: these have a value.
required() {
    local flag variable
    for flag in "$@"; do
        variable=PIC_JAX_${flag^^}
        [[ -n ${!variable:-} ]] || bad_usage "--$flag=... (or $variable) is missing"
    done
}

# one_of FLAG VALUE...: its value is one of these.
one_of() {
    local variable=PIC_JAX_${1^^}
    [[ " ${*:2} " == *" ${!variable} "* && ${!variable} != *' '* ]] ||
        bad_usage "--$1=${!variable}: not one of ${*:2}"
}

# at_least NUMBER FLAG...: these are whole numbers of at least that, without zeros in front, which would be octal.
at_least() {
    local flag variable
    for flag in "${@:2}"; do
        variable=PIC_JAX_${flag^^}
        [[ ${!variable} =~ ^(0|[1-9][0-9]{0,8})$ && ${!variable} -ge $1 ]] ||
            bad_usage "--$flag=${!variable}: not a whole number of at least $1"
    done
}

# check_command MOUNT: COMMAND is a pic-jax verb, and its workdir outlives the machines.
check_command() {
    ((${#COMMAND[@]})) || bad_usage "no command: end with -- train --config=... --workdir=$1/runs/NAME"
    local word workdir=
    for word in "${COMMAND[@]}"; do
        [[ $word == --workdir=* ]] && workdir=${word#--workdir=}
    done
    [[ $workdir != gs://* ]] || bad_usage "--workdir=$workdir: pic_jax writes to file paths; mount the bucket at $1"
    [[ $workdir == "$1"/* && $workdir != */..* ]] ||
        bad_usage "--workdir=$workdir: must be below $1, the storage that outlives the machines"
}
