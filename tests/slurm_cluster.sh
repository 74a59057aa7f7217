#!/usr/bin/env bash
# A real SLURM on this machine, with several emulated nodes, everything of it in one folder.
#
#   tests/slurm_cluster.sh start DIR     prints `export SLURM_CONF=...` once all nodes are idle
#   tests/slurm_cluster.sh stop DIR      ends its daemons and what they started, removes DIR
#   tests/slurm_cluster.sh with CMD ...  runs CMD beside a cluster whose nodes have network stacks of their own; all of it lives
#                                        in private namespaces and is gone with CMD. Inside there is no way out; CLUSTER
#                                        is the folder, IN_NODE runs a command in a node, the node's end outside is cableN.
#
# start needs no privilege and works as root and as any user; with needs root or user namespaces, and iproute2. Needs Debian's
# slurm-wlm and munge. Chosen by variables: NODES (2), CORES a node claims (4), GPUS a node claims (0; they are links to /dev/null),
# KILLWAIT (10, seconds between SIGTERM and SIGKILL), GRACE (30, seconds that a preempted job has), LOST (20, SlurmdTimeout).
# A line says why where it is not plain from slurm.conf(5); figures were measured with slurm 22.05 on Debian 12.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
script=$(readlink -f "$0")
NODES=${NODES:-2} CORES=${CORES:-4} GPUS=${GPUS:-0} KILLWAIT=${KILLWAIT:-10} GRACE=${GRACE:-30} LOST=${LOST:-20}
die() { echo "slurm_cluster.sh: $*" >&2; exit 1; }

node_name() { if [ -n "${PRIVATE:-}" ]; then echo "n$1"; else echo "127.0.0.$((10 + $1))"; fi; }
node_address() { if [ -n "${PRIVATE:-}" ]; then echo "10.77.0.$((10 + $1))"; else echo "127.0.0.$((10 + $1))"; fi; }

# A block of ports that nobody listens on; the daemons bind them a moment later.
free_ports() {
  local base
  for _ in $(seq 50); do
    base=$((20000 + RANDOM % 10000))
    if ! ss -Hltn 2>/dev/null | awk '{print $4}' | grep -qE ":($(seq -s '|' "$base" $((base + NODES))))$"; then
      echo "$base"
      return
    fi
  done
  die "no free ports"
}

write_config() {
  local base host control i
  base=$(free_ports) host=$(hostname -s)
  control=127.0.0.1
  [ -z "${PRIVATE:-}" ] || control=10.77.0.1
  {
    cat <<CONF
ClusterName=counterpose
# Else a fresh cluster begins at job 1 again, whose results of an earlier life may still lie in a folder.
FirstJobId=$((RANDOM % 30000 + 1000))
SlurmctldHost=$host($control)
SlurmctldPort=$base
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued job does not start before the old credentials have expired: 120 s by default.
AuthInfo=socket=$DIR/munge.sock,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool.%n
SlurmctldPidFile=$DIR/pids/slurmctld.pid
SlurmdPidFile=$DIR/pids/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
PlugStackConfig=$DIR/plugstack.conf
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# A node may claim more than this machine has.
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=$KILLWAIT
MinJobAge=3600
SlurmdTimeout=$LOST
SlurmctldTimeout=30
MessageTimeout=10
TCPTimeout=2
BatchStartTimeout=10
CONF
    [ "$GPUS" = 0 ] || echo "GresTypes=gpu"
    for i in $(seq "$NODES"); do
      [ -z "${PRIVATE:-}" ] || host=n$i
      echo "NodeName=$(node_name "$i") NodeHostname=$host NodeAddr=$(node_address "$i") Port=$((base + i)) CPUs=$CORES" \
           "RealMemory=8000 Feature=plain$([ "$GPUS" = 0 ] || echo " Gres=gpu:$GPUS") State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=2-00:00:00 PriorityTier=10 GraceTime=$GRACE"
    echo "PartitionName=high Nodes=ALL MaxTime=1:00:00 PriorityTier=100 PreemptMode=OFF"
  } > "$DIR/slurm.conf"
  : > "$DIR/plugstack.conf"
  # slurmd always loads a cgroup plugin, and its choice by itself is fatal where /sys/fs/cgroup is missing or read-only.
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > "$DIR/cgroup.conf"
  if [ "$GPUS" != 0 ]; then
    mkdir -p "$DIR/gpus"
    for i in $(seq 0 $((GPUS - 1))); do ln -sfn /dev/null "$DIR/gpus/gpu$i"; done
    echo "Name=gpu File=$DIR/gpus/gpu[0-$((GPUS - 1))]" > "$DIR/gres.conf"
  fi
}

# Bridge, one pair of interfaces a node, and in_node: run a command in a node's network and under its name.
make_network() {
  local i
  ip link add br0 type bridge
  ip addr add 10.77.0.1/24 dev br0
  ip link set br0 up
  { echo "127.0.0.1 localhost"; echo "10.77.0.1 $(hostname -s)"
    for i in $(seq "$NODES"); do echo "10.77.0.$((10 + i)) n$i"; done; } > "$DIR/hosts"
  mount --bind "$DIR/hosts" /etc/hosts
  # A name server that does not answer costs 10 s a look-up.
  echo "hosts: files" > "$DIR/nsswitch.conf"
  mount --bind "$DIR/nsswitch.conf" /etc/nsswitch.conf
  for i in $(seq "$NODES"); do
    ip netns add "n$i"
    ip link add "cable$i" type veth peer name eth0 netns "n$i"
    ip link set "cable$i" master br0 up
    ip -n "n$i" addr add "10.77.0.$((10 + i))/24" dev eth0
    ip -n "n$i" link set eth0 up
    ip -n "n$i" link set lo up
  done
  # nsenter: `ip netns exec` mounts /sys anew, without which slurmd dies.
  cat > "$DIR/in_node" <<'NODE'
#!/bin/sh
node=$1
shift
exec nsenter --net="/run/netns/$node" unshare -u sh -c 'hostname "$0"; exec "$@"' "$node" "$@"
NODE
  chmod +x "$DIR/in_node"
}

start() {
  local i
  command -v slurmctld >/dev/null || die "slurmctld is not installed (Debian: slurm-wlm)"
  command -v munged >/dev/null || die "munged is not installed (Debian: munge)"
  mkdir -p "$DIR"
  DIR=$(cd "$DIR" && pwd)
  [ ! -e "$DIR/slurm.conf" ] || die "$DIR holds a cluster already: stop it first"
  trap 'code=$?; [ $code = 0 ] || { tail -n 5 "$DIR"/log/* >&2 || true; "$script" stop "$DIR"; }' EXIT
  chmod 755 "$DIR"
  mkdir -p "$DIR/log" "$DIR/pids" "$DIR/state"
  chmod 700 "$DIR/state"
  (umask 077; head -c 1024 /dev/urandom > "$DIR/munge.key")
  # --force: /tmp, in which others may write, is part of the path.
  munged --force --key-file="$DIR/munge.key" --socket="$DIR/munge.sock" --pid-file="$DIR/pids/munged.pid" \
         --log-file="$DIR/log/munged.log" --seed-file="$DIR/state/munge.seed" 2>> "$DIR/log/munged.err"
  write_config
  export SLURM_CONF=$DIR/slurm.conf
  slurmctld -i 2>> "$DIR/log/slurmctld.err"
  for i in $(seq "$NODES"); do start_node "$i"; done
  for _ in $(seq 300); do
    [ "$(idle)" = "$NODES" ] && break
    sleep 0.1
  done
  [ "$(idle)" = "$NODES" ] || die "only $(idle) of $NODES nodes are idle"
  echo "export SLURM_CONF=$DIR/slurm.conf"
}

start_node() {
  mkdir -p "$DIR/spool.$(node_name "$1")"
  if [ -n "${PRIVATE:-}" ]; then "$IN_NODE" "n$1" slurmd -N "n$1"; else slurmd -N "$(node_name "$1")"; fi
}

idle() { sinfo -h -N -p main -o %t 2>/dev/null | grep -c '^idle$' || true; }

alive() { grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status"; }

# End a daemon by the number it wrote, if that is still one of ours.
end() {
  local number
  number=$(cat "$1" 2>/dev/null) || return 0
  case $(cat "/proc/$number/comm" 2>/dev/null) in slurm*|munged) ;; *) return 0 ;; esac
  kill -TERM "$number" 2>/dev/null || true
  for _ in $(seq 100); do
    alive "$number" || return 0
    sleep 0.05
  done
  kill -KILL "$number" 2>/dev/null || true
}

stop() {
  local file process number
  DIR=$(cd "$DIR" 2>/dev/null && pwd) || return 0
  export SLURM_CONF=$DIR/slurm.conf
  if [ -e "$SLURM_CONF" ]; then
    for file in "$DIR"/pids/slurmd.*.pid "$DIR/pids/slurmctld.pid" "$DIR/pids/munged.pid"; do end "$file"; done
    # Steps and tasks that outlived their daemon: of this cluster alone, by the variable that all of them carry.
    for process in /proc/[0-9]*; do
      number=${process#/proc/}
      grep -qzxs "SLURM_CONF=$SLURM_CONF" "$process/environ" || continue
      if grep -qzs '^SLURM_JOB_ID=' "$process/environ" || grep -qs slurmstepd "$process/comm"; then
        kill -KILL "$number" 2>/dev/null || true
      fi
    done
  fi
  rm -rf "$DIR"
}

with() {
  [ $# -gt 0 ] || die "with what command?"
  if [ -z "${PRIVATE:-}" ]; then
    local user=()
    DIR=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
    trap 'rm -rf "$DIR"' EXIT
    # Not --map-root-user: daemons that believe to be root want to change groups.
    [ "$(id -u)" = 0 ] || user=(-U --map-current-user --keep-caps)
    PRIVATE=1 DIR=$DIR unshare "${user[@]}" -m -n -u -i -p -f --mount-proc --kill-child "$script" with "$@"
    return
  fi
  ip link set lo up
  mount -t tmpfs tmpfs /run
  mkdir /run/netns
  make_network
  local code=0 out
  export PRIVATE IN_NODE=$DIR/in_node
  out=$("$script" start "$DIR/cluster")
  eval "$out"
  unset PRIVATE
  CLUSTER=$DIR/cluster "$@" || code=$?
  "$script" stop "$DIR/cluster"
  return "$code"
}

command=${1:-}
case $command in
  start|stop) DIR=${2:?DIR}; "$command" ;;
  node) DIR=${2:?DIR}; export SLURM_CONF=$DIR/slurm.conf; start_node "${3:?NUMBER}" ;;  # a node that was killed, again
  with) shift; with "$@" ;;
  *) sed -n '2,13p' "$script"; exit 2 ;;
esac
