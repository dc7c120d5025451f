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

die() { echo "launch/slurm_train.sh: $1" >&2; exit 2; }

python="${PYTHON:-python}"
dry_run=
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --dry_run) dry_run=1 ;;
    --sbatch=*) options+=("${1#--sbatch=}") ;;
    *) die "$1: is no option; take --dry_run, --sbatch=OPTION, and -- before the training's arguments" ;;
  esac
  shift
done
[ $# -gt 1 ] || die "no training: give -- and its arguments, --config=configs/TASK.py and --workdir=FOLDER"
shift
workdir=
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
[ -n "$workdir" ] || die "no --workdir=FOLDER among the training's arguments: name one that all nodes see"
if [ -z "$dry_run" ] && ! command -v sbatch >/dev/null; then
  die "sbatch: is not on the PATH; run this where jobs are submitted, or with --dry_run"
fi

training="$(printf '%q ' srun --kill-on-bad-exit=1 "$python" -m nullmark_jax.main --distributed "$@")"
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
