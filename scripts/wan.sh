#!/usr/bin/env bash
# Runs a command under mpiexec, every rank on a host of its own and the hosts joined by a slow network, on this machine.
#
#   scripts/wan.sh [-n RANKS] [-d DELAY_MS] [-r RATE_MBIT] COMMAND...      (3 ranks, 10 ms one way, 100 Mbit/s)
#   scripts/wan.sh -n 6 -d 50 mpinewton run dino DIR --loss softmax --max-rounds 100
#
# A host is a network namespace with a link to a switch, which delays what comes in and limits every link (relay.c, built
# on the way). Hosts share the processors and the files. The launcher is $MPIEXEC, or the first mpiexec on the PATH, of
# MPICH or Open MPI. Needs root, ip and cc: exit code 2 where they are missing, else that of the command. However it ends,
# unless by SIGKILL, what was made is taken down again and nothing else is touched: all names carry this process's number.
set -euo pipefail

refuse() { echo "wan.sh: $1" >&2; exit 2; }

ranks=3 delay=10 rate=100
while getopts n:d:r: option; do
    case $option in
        n) ranks=$OPTARG ;;
        d) delay=$OPTARG ;;
        r) rate=$OPTARG ;;
        *) refuse 'usage: scripts/wan.sh [-n RANKS] [-d DELAY_MS] [-r RATE_MBIT] COMMAND...' ;;
    esac
done
shift $((OPTIND - 1))
number='^[0-9]+(\.[0-9]+)?$'
[[ $ranks =~ ^[0-9]+$ && $ranks -ge 1 && $ranks -le 250 ]] || refuse "-n $ranks: 1 to 250 ranks"
[[ $delay =~ $number ]] || refuse "-d $delay: a delay in milliseconds, one way"
[[ $rate =~ $number ]] || refuse "-r $rate: Mbit/s of a link, 0 for no limit"
[[ $# -gt 0 ]] || refuse 'no command was given'
[[ $(id -u) == 0 ]] || refuse 'only root may make networks; run it as root, or in a container where you are'
for tool in ip cc unshare; do
    command -v "$tool" > /dev/null || refuse "there is no $tool on the PATH; install iproute2, util-linux and a C compiler"
done
mpiexec=${MPIEXEC:-$(command -v mpiexec)} || refuse 'no mpiexec on the PATH; name one in MPIEXEC'

prefix=mpinewton-$$
work=$(mktemp -d)
made=() relay='' job=''

take_down() {
    trap '' INT TERM HUP
    if [[ -n $job ]] && kill -TERM "$job" 2> /dev/null; then # it may want to write a checkpoint
        for _ in {1..100}; do kill -0 "$job" 2> /dev/null && sleep 0.1 || break; done
    fi
    if [[ -n $relay ]]; then kill "$relay" 2> /dev/null || true; fi
    for space in "${made[@]}"; do
        for pid in $(ip netns pids "$space" 2> /dev/null); do kill -KILL "$pid" 2> /dev/null || true; done
        ip netns del "$space" 2> /dev/null || true
    done
    rm -rf "$work"
}
trap take_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

make_host() { # NAME
    made+=("$prefix-$1") # before: a signal may come while it is made
    ip netns add "$prefix-$1" 2> "$work/why" || refuse "no network namespaces here: $(tail -n 1 "$work/why")"
    ip -n "$prefix-$1" link set lo up
}

make_network() {
    local switch=$prefix-switch here link links=() hosts=()
    cc -O2 -o "$work/relay" "$(dirname "$0")/relay.c"
    make_host switch
    echo '127.0.0.1 localhost' > "$work/hosts"
    for ((i = 0; i < ranks; i++)); do
        make_host "h$i"
        here=$prefix-h$i link=link$i
        ip link add eth0 netns "$here" address "$(printf '02:00:00:00:00:%02x' "$i")" type veth \
            peer name "$link" netns "$switch" 2> "$work/why" || refuse "no links here: $(tail -n 1 "$work/why")"
        ip -n "$here" address add "10.77.0.$((i + 1))/24" dev eth0
        ip netns exec "$here" "$work/relay" plain eth0
        # Long messages then depend on the network alone: other kernels may pace them (BBR), and forget after a pause.
        ip netns exec "$here" sh -ec "cd /proc/sys/net/ipv4; echo reno > tcp_congestion_control
            echo 0 > tcp_slow_start_after_idle" 2> "$work/why" || refuse "TCP cannot be set here: $(tail -n 1 "$work/why")"
        ip netns exec "$switch" "$work/relay" plain "$link"
        ip -n "$here" link set eth0 up
        ip -n "$switch" link set "$link" up
        echo "10.77.0.$((i + 1)) h$i" >> "$work/hosts"
        links+=("$link")
    done
    ip netns exec "$switch" "$work/relay" join "$delay" "$rate" "${links[@]}" &
    relay=$!
}

# What mpiexec calls instead of ssh: [OPTIONS] HOST COMMAND. A host has its own name, shared memory and /etc/hosts.
make_agent() {
    cat > "$work/agent" << EOF
#!/bin/sh
while [ "\${1#-}" != "\$1" ]; do shift; done
host=\$1
shift
exec ip netns exec "$prefix-\$host" unshare --uts --ipc --mount sh -c \
    "mount --bind '$work/hosts' /etc/hosts; hostname \$host; \$*"
EOF
    chmod +x "$work/agent"
}

start() { # COMMAND...
    local names=() way=()
    for ((i = 0; i < ranks; i++)); do names+=("h$i"); done
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    if "$mpiexec" --version 2> /dev/null | grep -q 'Open MPI'; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
        export OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,self OMPI_MCA_btl_tcp_if_include=eth0
        way=(--prtemca plm_ssh_agent "$work/agent" --map-by ppr:1:node --host "$(IFS=,; echo "${names[*]/%/:1}")")
    else
        export MPIR_CVAR_ENABLE_HEAVY_YIELD=1 UCX_TLS=tcp,self UCX_NET_DEVICES=eth0
        way=(-launcher ssh -launcher-exec "$work/agent" -hosts "$(IFS=,; echo "${names[*]}")" -ppn 1)
    fi
    # shellcheck disable=SC2016  # for the inner shell
    ip netns exec "$prefix-h0" unshare --uts --ipc --mount sh -c 'mount --bind "$0" /etc/hosts; hostname h0; exec "$@"' \
        "$work/hosts" "$mpiexec" "${way[@]}" -n "$ranks" "$@" &
    job=$!
}

make_network
make_agent
start "$@"
code=0
wait "$job" || code=$?
job=''
exit "$code"
