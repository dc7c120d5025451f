# shellcheck shell=bash
# What the launchers read from a training's arguments, and refuse among them; they source it, and have a `die`.

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

# refuse NAME ... -- ARGUMENT ...: dies of an argument that is one of these flags, which are a launcher's or its jobs'.
refuse() {
  local names='' argument remedy
  while [ "$1" != -- ]; do
    names+="|$1"
    shift
  done
  for argument in "${@:2}"; do
    [[ "$argument" =~ ^--?(${names#|})(=.*)?$ ]] || continue
    remedy='leave it away behind --'
    [ "${BASH_REMATCH[1]}" != dry_run ] || remedy='give it before --'
    die "$argument: is not for the jobs; $remedy"
  done
}
