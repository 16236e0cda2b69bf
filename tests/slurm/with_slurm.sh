#!/usr/bin/env bash
# Runs a command on a real SLURM: the one of this machine or, as root on Debian, one with a single node that is started for
# it and stopped again. Two partitions: what is submitted to "urgent" preempts what runs in "debug", which is requeued.
#   tests/slurm/with_slurm.sh COMMAND…
set -euo pipefail
if command -v sinfo >/dev/null && timeout 10 sinfo >/dev/null 2>&1; then exec "$@"; fi
if ! command -v slurmctld >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
fi
D=$(mktemp -d)
stop() {
    for pid in "$D"/slurmd.pid "$D"/slurmctld.pid "$D"/munged.pid; do [ -s "$pid" ] && kill "$(cat "$pid")" || true; done
    sleep 1
    rm -rf "$D"
}
trap stop EXIT
chmod 755 "$D"; mkdir -p "$D"/{spool,state,log} /run/munge; chown munge: /run/munge
touch "$D/munged.pid"; chown munge: "$D/munged.pid"
su -s /bin/sh munge -c "/usr/sbin/munged --force --pid-file=$D/munged.pid" 2>/dev/null
cat > "$D/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF="$D/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -N localhost -f "$SLURM_CONF"
for _ in $(seq 30); do [ "$(sinfo --noheader --partition=debug --format=%T)" = idle ] && break; sleep 1; done
"$@"
