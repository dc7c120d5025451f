#!/usr/bin/env bash
# A sweep as a Slurm array: a task for each point, then one job that makes the table and the figures.
#
#   launch/slurm_sweep.sh [--dry_run] [--sbatch=OPTION ...] -- SWEEP_ARGUMENT ...
#   launch/slurm_sweep.sh --sbatch=--gres=gpu:1 --sbatch=--time=30 -- --config=configs/sweeps/extreme_value.py:digit
#
# Everything after -- goes to `python -m nullmark_jax.sweep`. Submitted again, it trains what is left: a finished
# point's task ends at once. PYTHON names the interpreter that all nodes have (default: python).
set -euo pipefail

# shellcheck source=slurm_options.sh
source "${BASH_SOURCE[0]%"${BASH_SOURCE[0]##*/}"}slurm_options.sh"
read_options sweep "--config=configs/sweeps/NAME.py:TASK say" "$@"
refuse only collect dry_run -- "${arguments[@]}"
check_sbatch
points="$("$python" -m nullmark_jax.sweep "${arguments[@]}" --dry_run | wc -l)" || exit 2

sweep="$(printf '%q ' "$python" -m nullmark_jax.sweep "${arguments[@]}")"
# Not expanded here: each task has a number of its own.
# shellcheck disable=SC2016
array=(sbatch --parsable --job-name=nullmark "--array=0-$((points - 1))" "${options[@]}"
  --wrap "$step$sweep"'--only="$SLURM_ARRAY_TASK_ID"')
# Points that died are tried once more there; those that die again are named in the table. It is made of what there is
# before, in case the job's time does not suffice.
table=(sbatch --parsable --job-name=nullmark-table "${options[@]}" --wrap "$step$sweep--collect; $step$sweep")

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
