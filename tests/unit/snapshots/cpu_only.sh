#!/bin/bash
#SBATCH --job-name=berth-ab12-0f3e
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=240
#SBATCH --mem=1000M
#SBATCH --partition=gpu
#SBATCH --signal=B:USR2@60
#SBATCH --output=/spool/log/0f3e.out
#SBATCH --error=/spool/log/0f3e.out
#SBATCH --acctg-freq=task=30
#SBATCH --cluster-constraint=fast
#SBATCH --cores-per-socket=1
#SBATCH --cpu-freq=medium
#SBATCH --hint=nomultithread
#SBATCH --mincpus=1
#SBATCH --network=ib
#SBATCH --sockets-per-node=1
#SBATCH --open-mode=append
#SBATCH --chdir=/
#SBATCH --no-requeue
# The clock is read first: the time from here to the agent's first word is ours, the time before is Slurm's.
LC_ALL=C
export BERTH_STARTED_AT="${EPOCHREALTIME:-$(date +%s.%N)}"
umask 077
# Where no shell prepared this job, its secret came in the environment: out of there before anything is started.
berth_secret="${BERTH_SECRET-}"
unset BERTH_SECRET
if [ -n "$berth_secret" ]; then
  # That shell would have made the log's folder, too. Where this fails, only the log is missing.
  mkdir -p /spool/log && exec >> /spool/log/0f3e.out 2>&1
fi

# What a user's shell start-up files or the submitting side may have left behind.
unset BASH_ENV ENV CDPATH TZ LD_PRELOAD LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONUSERBASE PYTHONINSPECT
export LC_ALL=C.UTF-8
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
export HOME="${HOME:-$(cd ~ && pwd)}"
export USER="${USER:-${SLURM_JOB_USER:-}}" LOGNAME="${LOGNAME:-${SLURM_JOB_USER:-}}"
# The job was submitted with an empty environment; steps started inside it inherit this one.
export SLURM_EXPORT_ENV=ALL

export BERTH_PILOT=0f3e
export BERTH_JOB_LOG=/spool/log/0f3e.out
export BERTH_DOOR_ADDRESS=
export BERTH_DOOR_PORTS=
export BERTH_LINK=direct
export BERTH_SCRATCH=
export BERTH_GPUS=0
export BERTH_MEM_MB=1000
export PYTHONPATH=/opt/berth/src
export PYTHONUNBUFFERED=1
if [ -n "$berth_secret" ]; then
  exec /opt/berth/bin/python -m gpuworker --secret - <<< "$berth_secret"
fi
# exec: Slurm's signal before the end goes to the process that the script was.
exec /opt/berth/bin/python -m gpuworker --secret /spool/secret/0f3e.json
