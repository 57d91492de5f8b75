#!/usr/bin/env bash
# sbatch cluster/slurm.sh configs/eval/s3.yaml [A.B=VALUE ...]            costs what your site charges; from the project's folder
#
# One job on the nodes of one Slurm allocation: Ray's head and a worker on the first node, workers on the others, then the job's entry
# point under jobs/. Its exit status is the job's. A job that was preempted or ran out of time goes on where it stopped: the same
# command again, or Slurm's own requeueing. Project, environment, data and output must lie where all nodes see them (or in S3).
# Not tried on a Slurm cluster: tests run it on one machine, with stand-ins for srun and scontrol.
#SBATCH --job-name=fgray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --output=fgray-%j.log
set -euo pipefail
umask 077 # the token below is nobody else's

if [ $# -lt 1 ]; then
  echo "usage: sbatch cluster/slurm.sh CONFIG [A.B=VALUE ...]" >&2
  exit 2
fi
python=${FGRAY_PYTHON:-python} # of the environment that fgray is installed in
nodes=${SLURM_NNODES:?start it by sbatch}
cpus=${SLURM_CPUS_PER_TASK:?say --cpus-per-task}
gpus=${SLURM_GPUS_ON_NODE:-0}
kind=$("$python" -c 'import sys, fgray; print(fgray.load_config(sys.argv[1], sys.argv[2:]).job.job)' "$@")
entry=jobs/$kind.py

# Everybody on these nodes who has the token runs code as you: it is made for this job, readable for you alone, and removed at its end.
token=$PWD/.fgray-slurm-${SLURM_JOB_ID:?}.token
status=$PWD/.fgray-slurm-$SLURM_JOB_ID.status
trap 'rm -f "$token" "$status"' EXIT
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token

# The address of the first node among the others, not that of its loopback.
hosts=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
ip=""
for each in $(srun --nodes=1 --ntasks=1 --nodelist="${hosts%%$'\n'*}" hostname -I); do
  case $each in 127.*) ;; *) ip=${ip:-$each} ;; esac
done
address=${ip:?the first node has no address}:$((20000 + SLURM_JOB_ID % 20000)) # another job's Ray may be on the same network

most="{\"CPU\": $((nodes * cpus)), \"GPU\": $((nodes * gpus))}"
largest="{\"CPU\": $cpus, \"GPU\": $gpus}"
shape="{\"resources\": $largest, \"least\": $nodes, \"most\": $nodes}"
told="\"most\": $most, \"largest\": $largest, \"nodes\": [$shape], \"max_nodes\": $nodes"
export FGRAY_CLUSTER="{\"name\": \"slurm-$SLURM_JOB_ID\", \"provider\": \"slurm\", $told}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_USAGE_STATS_ENABLED=0

# `ray symmetric-run` starts Ray on every node, the entry point on the head, and stops Ray with it. It uses `ray stop`, which ends every
# Ray of yours on these nodes: hence --exclusive. Where Ray does not start it ends with 0: hence the file with the job's own status.
# shellcheck disable=SC2016  # the inner shell resolves these
keep='code=0; "$@" || code=$?; echo "$code" >"$0"; exit "$code"'
rm -f "$status" # of the run before it was requeued, which the same job id would take for its own
for _ in once again; do # Ray's start gives up after half a minute, which a busy node may need
  srun --nodes="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=0 \
    ray symmetric-run --address "$address" --min-nodes "$nodes" --num-cpus="$cpus" --num-gpus="$gpus" \
    --dashboard-host=127.0.0.1 --disable-usage-stats -- \
    bash -c "$keep" "$status" env RAY_ADDRESS="$address" "$python" "$entry" "$@" || true
  if [ -s "$status" ]; then break; fi
done
if [ ! -s "$status" ]; then
  echo "error: Ray did not start on all nodes, so the job did not run [$address]: see the messages above" >&2
  exit 1
fi
exit "$(cat "$status")"
