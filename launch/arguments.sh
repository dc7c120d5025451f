# shellcheck shell=bash
# What the launchers read from a training's arguments; they source it.

# workdir_of ARGUMENT ...: prints the run folder, the last one's where several are given, and nothing where none is.
workdir_of() {
  local argument previous='' found=''
  for argument in "$@"; do
    [[ "$previous" =~ ^--?workdir$ ]] && found="$argument"
    [[ "$argument" =~ ^--?workdir= ]] && found="${argument#*=}"
    previous="$argument"
  done
  printf '%s' "$found"
}
