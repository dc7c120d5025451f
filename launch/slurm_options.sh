# shellcheck shell=bash
# What the Slurm launchers share: [--dry_run] [--sbatch=OPTION ...] -- ARGUMENT ...; they source it.

# Whoever sources it reads them.
# shellcheck disable=SC2034
python="${PYTHON:-python}"
dry_run=
options=()
arguments=()

# shellcheck source=arguments.sh
source "${BASH_SOURCE[0]%"${BASH_SOURCE[0]##*/}"}arguments.sh"

# A step has the job's cores a task: Slurm 22.05 and later give it one else. Not expanded here: the job has its own.
# shellcheck disable=SC2016
step='srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} '

die() { echo "launch/${0##*/}: $1" >&2; exit 2; }

# read_options WHAT EXAMPLE COMMAND-LINE ...: what the arguments are of, and some that would do.
read_options() {
  local what="$1" example="$2"
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
      --dry_run) dry_run=1 ;;
      --sbatch=*) options+=("${1#--sbatch=}") ;;
      *) die "$1: is no option; take --dry_run, --sbatch=OPTION, and -- before the $what's arguments" ;;
    esac
    shift
  done
  [ $# -gt 1 ] || die "no $what: give -- and its arguments, $example"
  shift
  arguments=("$@")
}

check_sbatch() {
  if [ -z "$dry_run" ] && ! command -v sbatch >/dev/null; then
    die "sbatch: is not on the PATH; run this where jobs are submitted, or with --dry_run"
  fi
}
