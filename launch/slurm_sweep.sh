#!/usr/bin/env bash
# A sweep as a Slurm array: a task for each point, then one job that makes the table and the figures.
#
#   launch/slurm_sweep.sh [--dry_run] [--sbatch=OPTION ...] -- SWEEP_ARGUMENT ...
#   launch/slurm_sweep.sh --sbatch=--gres=gpu:1 --sbatch=--time=30 -- --config=configs/sweeps/extreme_value.py:digit
#
# Everything after -- goes to `python -m nullmark_jax.sweep`. Submitted again, it trains what is left: a finished
# point's task ends at once. PYTHON names the interpreter that all nodes have (default: python).
set -euo pipefail

die() { echo "launch/slurm_sweep.sh: $1" >&2; exit 2; }

python="${PYTHON:-python}"
dry_run=
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --dry_run) dry_run=1 ;;
    --sbatch=*) options+=("${1#--sbatch=}") ;;
    *) die "$1: is no option; take --dry_run, --sbatch=OPTION, and -- before the sweep's arguments" ;;
  esac
  shift
done
[ $# -gt 1 ] || die "no sweep: give -- and its arguments, --config=configs/sweeps/NAME.py:TASK say"
shift

if [ -z "$dry_run" ] && ! command -v sbatch >/dev/null; then
  die "sbatch: is not on the PATH; run this where jobs are submitted, or with --dry_run"
fi
points="$("$python" -m nullmark_jax.sweep "$@" --dry_run | wc -l)" || exit 2

sweep="$(printf '%q ' "$python" -m nullmark_jax.sweep "$@")"
# Not expanded here: each task has a number of its own.
# shellcheck disable=SC2016
array=(sbatch --parsable --job-name=nullmark "--array=0-$((points - 1))" "${options[@]}"
  --wrap "srun $sweep"'--only="$SLURM_ARRAY_TASK_ID"')
# Points that died are tried once more there; those that die again are named in the table.
table=(sbatch --parsable --job-name=nullmark-table "${options[@]}" --wrap "srun $sweep")

if [ -n "$dry_run" ]; then
  printf '%q ' "${array[@]}"
  echo
  printf '%q ' "${table[@]:0:2}" "--dependency=afterany:ARRAY" "${table[@]:2}"
  echo
  exit
fi
job="$("${array[@]}")"
job="${job%%;*}" # With clusters it is JOB;CLUSTER.
"${table[@]:0:2}" "--dependency=afterany:$job" "${table[@]:2}" >/dev/null
echo "$points points are job $job; their table follows it. Watch: squeue --me. Stop: scancel --name=nullmark,nullmark-table"
