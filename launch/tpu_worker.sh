#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on the workers of a slice, in ~/nullmark there.
#
#   tpu_worker.sh prepare FOLDER [FILE ...]    the source, the data and a run folder that were copied to their places
#   tpu_worker.sh run COMMAND ...              the training; its output, and its exit status
#   tpu_worker.sh pack FOLDER                  the run folder into fetched.tar; status 3 where there is none
#
# A training is apart from the connection that started it: gcloud connects anew where one was lost, and gives the
# command again. It then finds the same training, and follows that. So does another start of tpu_pod.sh.
set -euo pipefail

at_work() { [ -e pid ] && kill -0 "$(cat pid)" 2>/dev/null; }

prepare() {
  local folder="$1" number=0
  shift
  if at_work; then
    echo "a training is at work here: it goes on"
    return
  fi
  rm -f pid status log
  mkdir -p src
  rm -rf src/nullmark_jax
  tar -xzf source.tar.gz -C src
  for file in "$@"; do
    mkdir -p "src/$(dirname "$file")"
    mv "data.$number" "src/$file"
    number=$((number + 1))
  done
  # One that is here already is newer: it was not fetched yet.
  if [ -e run.tar ] && [ ! -d "src/$folder" ]; then
    tar -xf run.tar -C src
  fi
  rm -f run.tar
  # TPU images have Python 3.10, this package needs 3.11: uv brings one of its own.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --allow-existing --python 3.12 venv
  (cd src && python3 -m uv pip install --quiet --python ../venv/bin/python '.[tpu]')
}

run() {
  if [ ! -e status ] && ! at_work; then
    : >log
    # The shell outlives a SIGTERM to all processes, to write how the training ended.
    # Not expanded here, but by that shell.
    # shellcheck disable=SC2016
    setsid nohup bash -c '
      trap : TERM
      echo "$$" >pid.part
      mv pid.part pid
      (cd src && PATH="$PWD/../venv/bin:$PATH" exec "$@")
      echo "$?" >status.part
      mv status.part status
    ' bash "$@" >log 2>&1 </dev/null &
    while [ ! -e pid ]; do sleep 0.1; done
  fi
  tail --pid="$(cat pid)" --sleep-interval=0.2 --lines=+1 --follow log
  if [ ! -e status ]; then
    echo "the training was killed" >&2
    return 137
  fi
  return "$(cat status)"
}

pack() {
  local folder="$1" status=0
  [ -d "src/$folder" ] || return 3
  local tar=(tar -C src --exclude='*.orbax-checkpoint-tmp*' --exclude='.*.part')
  # The checkpoints first: of an epoch that ends meanwhile, the rest may be there without its checkpoint, not the
  # other way round. Status 1 is of files that went meanwhile, old checkpoints say.
  rm -f fetched.part
  if [ -d "src/$folder/checkpoints" ]; then
    "${tar[@]}" -cf fetched.part "$folder/checkpoints" || status=$?
    [ "$status" -le 1 ] || return 4
  fi
  status=0
  "${tar[@]}" -rf fetched.part --exclude="$folder/checkpoints" "$folder" || status=$?
  [ "$status" -le 1 ] || return 4
  mv fetched.part fetched.tar
}

# All of this file is read before any of it runs: another start may replace it meanwhile.
main() {
  local what="$1"
  shift
  cd "${NULLMARK_HOME:-$HOME/nullmark}"
  case "$what" in
    prepare) prepare "$@" ;;
    run) run "$@" ;;
    pack) pack "$@" ;;
  esac
  exit
}
main "$@"
