#!/usr/bin/env bash
# A training on a slice of a TPU pod, as a queued resource of Google Cloud: made, used, and deleted.
#
#   launch/tpu_pod.sh --name=NAME --type=TYPE --zone=ZONE [OPTION ...] -- MAIN_ARGUMENT ...
#   launch/tpu_pod.sh --name=digit --type=v5litepod-16 --zone=us-west4-a --spot --data=data/mnist.npz -- \
#     --config=configs/digit.py --config.data.source=npz --config.data.path=data/mnist.npz --workdir=runs/digit
#
#   --project=PROJECT    gcloud's own where none is given
#   --runtime=VERSION    software of the machines; by the type where none is given
#   --spot               cheaper machines, that may be taken away at any time
#   --data=FILE          a file for all machines, at the same path there; may be given again
#   --save_seconds=N     how often the run folder is fetched while it trains (600), 0 for at the end alone
#   --keep               leave the machines at the end
#   --allow_dirty        run the last commit, without what is not committed
#   --dry_run            print the commands, those that depend on what is found as comments, and do nothing
#
# Everything after -- goes to `python -m nullmark_jax.main --distributed`, the last commit's, on every machine.
# Paths are relative to the project's folder. The same command again finds out what is there and goes on: it waits for
# the machines, follows a training that is at work, or takes the run folder to new machines where the old were taken.
#
# Exit status: the training's; 1 where there are no machines or no results, 2 for unusable input.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=arguments.sh
source launch/arguments.sh

say() { echo "launch/tpu_pod.sh: $1" >&2; }
die() { say "$1"; exit 2; }
fail() { say "$1"; exit 1; }

name='' type='' zone='' project='' runtime='' spot='' keep='' allow_dirty='' dry_run=''
save_seconds=600
files=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --runtime=*) runtime="${1#*=}" ;;
    --spot) spot=1 ;;
    --data=*) files+=("${1#*=}") ;;
    --save_seconds=*) save_seconds="${1#*=}" ;;
    --keep) keep=1 ;;
    --allow_dirty) allow_dirty=1 ;;
    --dry_run) dry_run=1 ;;
    *) die "$1: is no option; see the head of this file, and give -- before the training's arguments" ;;
  esac
  shift
done
[ $# -gt 1 ] || die "no training: give -- and its arguments, --config=configs/NAME.py --workdir=runs/NAME say"
shift

# What is below the project's folder is at the same path on the machines.
below() {
  case "/$2/" in
    //* | */../*) die "$1: $2 is not below the project's folder; give a path relative to it" ;;
  esac
}

[[ "$name" =~ ^[a-z]([-a-z0-9]{0,60}[a-z0-9])?$ ]] \
  || die "--name: '$name' is no name; give up to 62 small letters, digits and hyphens, a letter first"
[ -n "$type" ] || die "--type: '' is no type of TPU; give one, v5litepod-16 say"
[ -n "$zone" ] || die "--zone: '' is no zone; give one that has the type, us-west4-a say"
[[ "$save_seconds" =~ ^[0-9]+$ ]] || die "--save_seconds: '$save_seconds' is no number; give 600, or 0"
if [ -z "$runtime" ]; then
  case "$type" in
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) die "--runtime: none is known for --type=$type; give one" ;;
  esac
fi
refuse dry_run -- "$@"
workdir="$(workdir_of "$@")"
[ -n "$workdir" ] || die "--workdir: is not given; give it after --, --workdir=runs/$name say"
workdir="${workdir%/}"
below --workdir "$workdir"
for file in ${files[@]+"${files[@]}"}; do
  below --data "$file"
  [ -f "$file" ] || die "--data: $file is no file; give one"
done
commit="$(git rev-parse HEAD)" || die "HEAD: is no commit; run this from a clone of the project"
changed="$(git status --porcelain --untracked-files=no)"
if [ -n "$changed" ] && [ -z "$allow_dirty" ]; then
  die "the tree has changes that are not committed, which would not run; commit them, or give --allow_dirty"
fi
if [ -z "$dry_run" ] && ! command -v gcloud >/dev/null; then
  die "gcloud: is not on the PATH; install the Google Cloud CLI, or give --dry_run"
fi

where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")
resources=(gcloud compute tpus queued-resources)
stage="build/tpu-$name" # Of this machine: what goes there, and what comes back.

# Does a command, or prints it.
run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
# A dry run's comment: what the command $2 ... would run, and when.
comment() {
  local when="$1"
  shift
  [ -z "$dry_run" ] || "$@" | sed "s|^|# $when: |"
}
on() { run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --quiet "--worker=$1" "--command=$2"; }
copy() { run gcloud compute tpus tpu-vm scp "${where[@]}" --quiet "$@"; }
remove() { run "${resources[@]}" delete "$name" "${where[@]}" --force --quiet; }
quoted() { printf '%q ' "$@"; }

list() { run "${resources[@]}" list "${where[@]}" '--format=value(name.basename(),state.state)'; }

# The resource's state; '' where there is none.
state() {
  list | awk -v name="$name" '$1 == name { print $2 }'
}

# Waits while the state is one of $1, a pattern; leaves the state that follows in $now.
wait_while() {
  local last=none
  while :; do
    now="$(state)" || fail "gcloud could not list the queued resources of $zone; see above, then give the same command again"
    [ "$now" = "$last" ] || say "$name: ${now:-there is none}"
    last="$now"
    [[ "$now" =~ ^($1)$ ]] || return 0
    sleep "${POLL_SECONDS:-20}"
  done
}

make() {
  run "${resources[@]}" create "$name" "${where[@]}" "--node-id=$name" "--accelerator-type=$type" \
    "--runtime-version=$runtime" ${spot:+--spot} --quiet
}

# Leaves the resource ACTIVE, or fails.
acquire() {
  if [ -n "$dry_run" ]; then
    list
    comment 'Where an earlier one is FAILED or SUSPENDED' remove
    echo '# Where there is none, or no longer:'
    make
    echo '# Until it is ACTIVE:'
    list
    return
  fi
  wait_while 'SUSPENDING|DELETING'
  case "$now" in
    FAILED | SUSPENDED) # Of an earlier start: its machines are gone.
      remove
      make
      ;;
    '') make ;;
  esac
  wait_while 'CREATING|ACCEPTED|WAITING_FOR_RESOURCES|PROVISIONING|STATE_UNSPECIFIED'
  [ "$now" = ACTIVE ] || fail "$name is ${now:-gone} and gives no machines; see why: $(quoted "${resources[@]}" \
    describe "$name" "${where[@]}"); then give the same command again, which asks anew"
}

# Copies the source, the data and the run folder to the machines, and installs the package there.
supply() {
  local number=0 sent=("$stage/tpu_worker.sh" "$stage/source.tar.gz")
  run mkdir -p "$stage"
  restore
  run cp launch/tpu_worker.sh "$stage/tpu_worker.sh"
  run git archive --format=tar.gz "--output=$stage/source.tar.gz" "$commit"
  for file in ${files[@]+"${files[@]}"}; do
    run ln -sf "$PWD/$file" "$stage/data.$number"
    sent+=("$stage/data.$number")
    number=$((number + 1))
  done
  on all 'mkdir -p nullmark'
  copy --worker=all "${sent[@]}" "$name:nullmark/"
  if [ -d "$workdir" ]; then
    run tar -cf "$stage/run.tar" "$workdir"
    copy --worker=0 "$stage/run.tar" "$name:nullmark/run.tar"
  fi
  on all "bash nullmark/tpu_worker.sh prepare $(quoted "$workdir" ${files[@]+"${files[@]}"})"
}

# Puts a run folder back that was moved aside when this was killed.
restore() {
  [ ! -e "$workdir" ] && [ -e "$stage/replaced/$workdir" ] || return 0
  run mkdir -p "$(dirname "$workdir")" || return
  run mv "$stage/replaced/$workdir" "$workdir"
}

put_aside() { run mkdir -p "$(dirname "$stage/replaced/$workdir")" && run mv "$workdir" "$stage/replaced/$workdir"; }
discard() { run mv "$stage/replaced" "$stage/discarded"; }

# Replaces the run folder by that of worker 0. Status 3 where there is none, another where it cannot be had.
fetch() {
  on 0 "bash nullmark/tpu_worker.sh pack $(quoted "$workdir")" || return
  run rm -rf "$stage/fetched" || return
  run mkdir -p "$stage/fetched" "$(dirname "$workdir")" || return
  copy --worker=0 "$name:nullmark/fetched.tar" "$stage/fetched.tar" || return 1
  run tar -xf "$stage/fetched.tar" -C "$stage/fetched" || return 1
  restore || return 1
  run rm -rf "$stage/replaced" "$stage/discarded" || return 1
  local aside=''
  if [ -e "$workdir" ]; then
    aside=1
    put_aside || return 1
  else
    comment 'Where it is there by then' put_aside
  fi
  run mv "$stage/fetched/$workdir" "$workdir" || return 1
  # A part of it is not to be put back.
  if [ -n "$aside" ]; then
    discard || return 1
  else
    comment 'Where it was there' discard
  fi
  run rm -rf "$stage/discarded"
}

# Fetches every now and then, so that machines that are taken away take little along.
save() {
  local second
  while :; do
    for ((second = 0; second < save_seconds; second++)); do
      # Nor where this was killed: another start fetches then.
      { [ -e "$stage/training" ] && kill -0 $$ 2>/dev/null; } || return 0
      sleep 1
    done
    fetch >/dev/null 2>&1 || true
  done
}

acquire
deletion="$(quoted "${resources[@]}" delete "$name" "${where[@]}" --force)"
trap 'say "the machines could not be supplied; see above, then give the same command again. They are billed until: $deletion"
  exit 1' EXIT
supply
trap - EXIT

saver=''
if [ -z "$dry_run" ]; then
  trap 'rm -f "$stage/training"; [ -z "$saver" ] || kill "$saver"; say "the training goes on; the same command again follows it"; exit 130' INT TERM
  if [ "$save_seconds" -gt 0 ]; then
    : >"$stage/training"
    save &
    saver=$!
  fi
elif [ "$save_seconds" -gt 0 ]; then
  comment "Every $save_seconds seconds while it trains" fetch
fi
status=0
# gcloud ends with the status of the first worker that has not 0.
on all "bash nullmark/tpu_worker.sh run env NULLMARK_COMMIT=$commit python -m nullmark_jax.main --distributed \
$(quoted "$@")" || status=$?
if [ -n "$saver" ]; then
  rm -f "$stage/training"
  wait "$saver" || true
fi
comment 'Where the connection was lost' list
# 255 is ssh's own: gcloud gave up to connect.
if [ "$status" -eq 255 ]; then
  now="$(state)" || now=ACTIVE
  [ "$now" != ACTIVE ] || fail "the connection was lost; the training goes on, and the same command again follows it"
fi

fetched=0
fetch || fetched=$?
if [ -z "$dry_run" ]; then
  now="$(state)" || now=unknown
  if [ "$fetched" -ne 0 ] && [ "$fetched" -ne 3 ] && [[ "$now" =~ ^(ACTIVE|unknown)$ ]]; then
    fail "the run folder could not be fetched; the machines are left, and billed: give the same command again"
  fi
  [ "$now" = ACTIVE ] || say "$name: ${now:-there is none}: its machines were taken away"
else
  list
  [ -n "$keep" ] || echo '# Where the run folder was fetched, or there is none, or the machines were taken away:'
fi
[ -n "$keep" ] || remove || say "$name could not be deleted; see above, and delete it: it may be billed"
[ -z "$dry_run" ] || exit 0
[ -z "$keep" ] || say "$name is left, and billed, until: $deletion"
if [ -e "$workdir/result.json" ]; then
  say "the run is in $workdir"
else
  say "not finished; give the same command again"
fi
exit "$status"
