#!/usr/bin/env bash
# A training as a Slurm job, on as many nodes as asked for, that goes on after a preemption or its time limit.
#
#   launch/slurm_train.sh [--dry_run] [--sbatch=OPTION ...] -- TRAINING_ARGUMENT ...
#   launch/slurm_train.sh --sbatch=--nodes=2 --sbatch=--ntasks-per-node=4 --sbatch=--gres=gpu:4 \
#     --sbatch=--time=60 -- --config=configs/traffic.py --workdir=/shared/traffic
#
# Everything after -- goes to `python -m nullmark_jax.main --distributed` and must name its --workdir. All tasks of
# the job train one model, each with one GPU of its node. PYTHON names the interpreter that all nodes have (default: python).
set -euo pipefail

# shellcheck source=slurm_options.sh
source "${BASH_SOURCE[0]%"${BASH_SOURCE[0]##*/}"}slurm_options.sh"
read_options training "--config=configs/TASK.py and --workdir=FOLDER" "$@"
workdir="$(workdir_of "${arguments[@]}")"
[ -n "$workdir" ] || die "no --workdir=FOLDER among the training's arguments: name one that all nodes see"
refuse dry_run -- "${arguments[@]}"
check_sbatch
"$python" -m nullmark_jax.main "${arguments[@]}" --dry_run >/dev/null || exit 2

training="$step$(printf '%q ' --kill-on-bad-exit=1 "$python" -m nullmark_jax.main --distributed "${arguments[@]}")"
# A training that got SIGTERM, a minute before the time limit say, has written its state and ends with 0, or with
# 143 beside a training's steps, but has no result yet: it is to go on. Not expanded here: the job has a number of
# its own.
# shellcheck disable=SC2016
again='status=$?; case $status in 0|143) '"[ -e $(printf '%q' "$workdir/result.json") ]"
# shellcheck disable=SC2016
again+=' || scontrol requeue "$SLURM_JOB_ID";; esac; exit $status'
job=(sbatch --parsable --job-name=nullmark-train --requeue --open-mode=append --signal=TERM@60
  "${options[@]}" --wrap "$training; $again")

if [ -n "$dry_run" ]; then
  printf '%q ' "${job[@]}"
  echo
  exit
fi
number="$("${job[@]}")"
echo "the training is job ${number%%;*}. Watch: squeue --me. Stop: scancel ${number%%;*}"
