#!/usr/bin/env bash
# One entry point: sets up what it needs, prints the command that does the work, and runs it.
#
#     ./launch.sh demo
#     ./launch.sh stage2 configs/stage2/qwen2-vl-2b.yaml loss.temperature=0.03
set -euo pipefail

called_from=$PWD
printf -v UNIME_TYPED ' %q' "$0" "$@"
export UNIME_TYPED=${UNIME_TYPED# } # what the programs tell to go on with
export UNIME_LAUNCHERS="${UNIME_LAUNCHERS:-} $$" # killed, its programs end too
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
venv=${UNIME_VENV:-.venv}
venv=${venv%/}
[[ $venv == /* || -z ${UNIME_VENV:-} ]] || venv=$called_from/$venv
lock=requirements.lock # the versions that the suite was run with; CONTRIBUTING.md: Versions
latest=${UNIME_LATEST:-}
unset UNIME_LATEST # the programs' own calls of launch.sh take what is installed then
[[ -z $latest ]] || venv=$venv-latest

usage() {
  cat <<'EOF'
Usage: ./launch.sh COMMAND [arguments]      (COMMAND --help says more, once it is set up)

  demo [key=value …]            the whole pipeline in miniature, on CPU, without a model hub
  test [pytest arguments]       the test suite, offline; its slow groups by -m (see pyproject.toml)
  lint                          ruff (check, format) and mypy
  prepare [teacher|demo] CONFIG [key=value …]   the teacher's embeddings, or the demo's data
  prepare real-llm CONFIG [key=value …]         a language model of 135 M parameters, and its texts
  prepare batches CONFIG [key=value …]          rows in clusters that are hard, for stage 2's batches
  prepare demo-triples CONFIG [key=value …]     the demo's texts with a negative each (E5-V)
  prepare miniatures FOLDER     every benchmark in miniature, for configs/eval/miniatures.yaml
  prepare own PATH OUT [key=value …] [--dry-run]   your own pictures and texts, made ready
  prepare mmeb [CONFIG] [key=value …] [--dry-run]   MMEB downloaded, verified and unpacked
  stage1 CONFIG [key=value …]   textual discriminative knowledge distillation
  stage2 CONFIG [key=value …]   hard-negative enhanced instruction tuning
  tune OUT [CONFIG] [key=value …]   a prepared set to a tuned model and a page about it
  mine CONFIG|DATA OUT [key=value …]   hard negatives from the whole corpus, for stage 2
  judge CONFIG|DATA OUT [key=value …]   a judge's scores of targets and negatives, for stage 2
  study NAME|FILE [key=value …] [--dry-run]   recipes × seeds × settings, each trained and evaluated once
  plan CONFIG [key=value …]     memory, FLOPs and hours of a stage, before it runs
  eval CONFIG [key=value …]     a model on every task of a suite (MMEB, MMEB-V2, retrieval, …)
  report CONFIG [key=value …]   one table from the results of several models
  export RUN OUT [key=value …]  a finished run as a model for sentence-transformers and others
  index FOLDER [INDEX] [key=value …]   your pictures, texts and PDF files, to be searched
  search TEXT [INDEX] [--image FILE] [--json] [key=value …]   what is like a sentence, a picture or both
  app [MODEL|INDEX] [key=value …]   a page to search your pictures, try labels, and compare
  serve MODEL [key=value …]     a service for OpenAI, vLLM, Cohere, Voyage, Jina and Weaviate clients
  check DATA [key=value …]      pairs before they are trained on: a prepared set, or a stage-2 CONFIG
  check STORE [repair=true]     stores of embeddings, row by row; damaged rows are taken out
  bench NAME|all [--small]      measures this project beside its peers, on one thread

The first call makes a virtual environment (.venv in the checkout) and installs everything into
it, in the versions of requirements.lock; later calls use it as it is. Programs run in the checkout:
runs/ and data/ are there.

Environment:
  UNIME_VENV               the virtual environment to make and use
  UNIME_PYTHON             the Python (3.11, 3.12 or 3.13) to make it with
  UNIME_LATEST=1           the newest versions that pyproject.toml admits instead, brought up to
                           date at every call, in an environment of their own (.venv-latest)
  UNIME_NUM_PROCESSES      processes of stage1, stage2, tune, study, mine, judge and eval (default: one a
                           GPU, or 1 on CPU)
  UNIME_ACCELERATE_CONFIG  accelerate's configuration for them (default: from configs/accelerate/)
  UNIME_CACHE              what is remembered of checked data (default: ~/.cache/unime)
  OMP_NUM_THREADS          threads of each process on CPU (default: the cores, divided among the
                           processes that UNIME_NUM_PROCESSES counts; 1 for test and bench). Fewer where
                           other programs need the cores too: waiting threads are slow
EOF
}

usage_of() { # COMMAND's lines of it
  usage | sed -n "s|^  \($1 \)|Usage: ./launch.sh \1|p"
}

test_processes() { # one a core; with more than four, memory is short before time is
  local cores
  cores=$(getconf _NPROCESSORS_ONLN)
  echo $((cores < 4 ? cores : 4))
}

module_of() {
  case $1 in
    demo | plan | export | check | tune | mine | index | search | app | serve | study) echo "stages.$1" ;;
    judge) echo data_prep.judge ;;
    bench) echo benchmarks ;;
    prepare) echo data_prep.teacher_embeddings ;;
    stage1) echo stages.stage1_distill ;;
    stage2) echo stages.stage2_instruct ;;
    eval) echo eval.evaluate ;;
    report) echo eval.report ;;
  esac
}

fail() {
  echo "launch.sh: $*" >&2
  exit 2
}

find_python() { # prints a Python that is admitted and can make virtual environments
  local candidate found='' candidates=("${UNIME_PYTHON:-}")
  [[ -n ${UNIME_PYTHON:-} ]] || candidates=(python3 python3.11 python3.12 python3.13 python3.14)
  for candidate in "${candidates[@]}"; do
    admits "$(version "$candidate")" || continue
    found=$candidate
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  [[ -z $found ]] || fail "$found cannot make virtual environments: install its venv module" \
    "(Debian, Ubuntu: apt-get install python3-venv)"
  fail "needs $(admitted) and found none (tried ${candidates[*]}); install one, or name it:" \
    "UNIME_PYTHON=/path/to/python ./launch.sh …"
}

version() { # PYTHON's version and folder; nothing when it does not run
  local say='import os, sys; print(*sys.version_info[:2], os.path.realpath(sys.prefix))'
  "$1" -c "$say" 2>/dev/null || true
}

place() { # the same of the environment's Python
  version "$venv/bin/python"
}

admits() { # MAJOR MINOR …
  local major=0 minor=0
  read -r major minor _ <<<"$1"
  ((major == 3 && minor >= 11)) && [[ -n $latest || $minor -le 13 ]]
}

admitted() {
  if [[ -n $latest ]]; then
    echo "Python 3.11 or newer"
  else
    echo "Python 3.11, 3.12 or 3.13 (others were not tried with $lock; UNIME_LATEST=1 takes newer ones)"
  fi
}

is_ready() { # $venv/.unime-installed is written last, so an interrupted set-up has none
  [[ -z $latest && -f $venv/.unime-installed && $(<"$venv/.unime-installed") == "$(state)" ]]
}

state() {
  place
  sha256sum pyproject.toml "$lock"
}

setup() {
  if is_ready; then return; fi
  mkdir -p -- "$(dirname -- "$venv")"
  exec 9>"$venv.lock"
  if command -v flock >/dev/null; then flock 9; fi # a second call waits for the first one's set-up
  if ! is_ready; then install; fi
  exec 9>&-
}

install() {
  local python installed=$venv/.unime-installed made=$venv/.unime-made
  if [[ -f $made ]] && { [[ ! -f $installed ]] || [[ $(head -n 1 "$installed") != "$(place)" ]]; }; then
    echo "Making $venv anew: its set-up was interrupted, or it was moved or lost its Python." >&2
    rm -rf -- "$venv.old"
    mv -- "$venv" "$venv.old"
    rm -rf -- "$venv.old"
  fi
  if [[ ! -f $venv/pyvenv.cfg ]]; then
    if [[ -d $venv && -n $(ls -A -- "$venv") ]]; then
      fail "$venv is not empty and is no virtual environment: name another folder in UNIME_VENV"
    fi
    python=$(find_python)
    mkdir -p -- "$venv"
    touch -- "$made" # only an environment with this mark is ever removed
    "$python" -m venv "$venv"
  fi
  admits "$(place)" || fail "$venv has Python $(place), and this needs $(admitted)"
  rm -f -- "$installed"
  echo "Installing into $venv (about 8 GB, mostly torch, once) …" >&2
  install_packages
  state >"$installed.new"
  mv -- "$installed.new" "$installed"
}

install_packages() {
  local pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
  if [[ -n $latest ]]; then
    "${pip[@]}" --upgrade --upgrade-strategy eager --editable '.[demo,dev]'
  else # what is built from its source is built with the lock's setuptools (by pip up to 25.2, and newer)
    PIP_CONSTRAINT=$lock PIP_BUILD_CONSTRAINT=$lock "${pip[@]}" --requirement "$lock"
    PIP_CONSTRAINT=$lock PIP_BUILD_CONSTRAINT=$lock "${pip[@]}" --no-deps --editable .
  fi
}

config_path() { # CONFIG as seen from the caller's folder, else from the checkout
  if [[ $1 != /* && -f $called_from/$1 && $called_from != "$PWD" ]]; then
    echo "$called_from/$1"
  elif [[ -f $1 ]]; then
    echo "$1"
  else
    fail "no such file: $1 (looked in $called_from and $PWD)"
  fi
}

from_caller() { # a path as seen from the caller's folder if it is there, else from the checkout
  if [[ $1 != /* && -e $called_from/$1 ]]; then echo "$called_from/$1"; else echo "$1"; fi
}

show() { # prints a command as one could type it, on stderr
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
}

run_python() {
  local words=("$venv/bin/python" "$@")
  show "${words[@]}"
  run_here "${words[@]}"
}

run_here() { # with the terminal, if there is one; passes signals on, and says what the program cannot
  local status=0 program
  (trap - INT QUIT && exec "$@") <&0 &
  program=$!
  trap '[[ -t 0 ]] || kill -INT "$program"' INT # a terminal has sent it to the program too
  trap 'kill -TERM "$program"' TERM
  trap 'kill -HUP "$program"' HUP
  wait "$program" 2>/dev/null || status=$?
  while ((status > 128)) && kill -0 "$program" 2>/dev/null; do # a signal came, and was passed on
    status=0
    wait "$program" 2>/dev/null || status=$?
  done
  if ((status == killed)); then say_killed; fi
  exit "$status"
}

killed=137 # the status of a program that a SIGKILL ended, which is how the kernel makes room

say_killed() {
  echo "launch.sh: the program was killed, most likely by the system for want of memory (see dmesg):" \
    "lower optim.chunk_size, batch_size or num_workers; what is saved already stays, and the same" \
    "command goes on from it" >&2
}

check_config() { # CONFIG [key=value …]: one message for a mistake, before any rank starts
  "$venv/bin/python" -c 'import sys
from unime import config
from unime.runtime.program import run_program
sys.argv[0], name, file, *words = sys.argv[1:] # the first in messages, not "-c"
def check():
    loaded = config.load_config(getattr(config, name), words)
    if file and isinstance(loaded, config.Stage1Config | config.Stage2Config): # the engine that accelerate is asked for may not do all of it
        from unime.training import engines
        engine = engines.engine_in_file(file)
        if engine: engines.check_combination(engine, loaded)
run_program(check)' "launch.sh $command" "${command^}Config" "$accelerate_config" --config "$@"
  if [[ " $* " == *" --print-config "* ]]; then exit 0; fi # has been shown
}

run_accelerate() { # MODULE CONFIG [key=value …]
  local module=$1 config=$2 processes=${UNIME_NUM_PROCESSES:-} file=$accelerate_config
  local gpus kind threads words=()
  shift 2
  [[ $processes =~ ^([1-9][0-9]*)?$ ]] ||
    fail "UNIME_NUM_PROCESSES: got '$processes', expected a positive number"
  gpus=0 # of which an empty CUDA_VISIBLE_DEVICES hides all
  if [[ -n ${CUDA_VISIBLE_DEVICES-unset} ]]; then
    gpus=$("$venv/bin/python" -c 'import torch; print(torch.cuda.device_count())')
  fi
  if ((gpus == 0)); then
    threads=$(($(nproc) / ${processes:-1})) # 0, where there are fewer cores than processes
    # without it accelerate leaves every CPU rank alone in a world of its own
    words=(env ACCELERATE_USE_CPU=true DS_ACCELERATOR=cpu "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}")
  fi
  if [[ -z $file ]]; then
    processes=${processes:-$((gpus > 0 ? gpus : 1))}
    kind=$((gpus > 0))-$((processes > 1))
    case $kind in
      0-0) ;; # nothing to launch beside the program itself, which saves seconds each time
      0-1) file=configs/accelerate/cpu_two_ranks.yaml ;;
      1-0) file=configs/accelerate/one_gpu.yaml ;;
      1-1) file=configs/accelerate/ddp.yaml ;;
    esac
  fi
  if [[ -z $file ]]; then
    words+=("$venv/bin/python")
  else
    words+=("$venv/bin/accelerate" launch --config_file "$file" ${processes:+--num_processes "$processes"})
    words+=(--quiet) # with one process no traceback of accelerate's own
  fi
  words+=(-m "$module" --config "$config" "$@")
  show "${words[@]}"
  run_and_wait "${words[@]}"
}

run_and_wait() { # passes signals on to every rank and waits until all have saved
  local signal=0 status=0 group running
  running=$(mktemp)
  trap 'rm -f -- "$running"' EXIT
  set -m # a process group of its own
  # ranks heed Ctrl-C themselves, accelerate would print a traceback for it
  (trap '' INT && UNIME_RUNNING=$running exec "$@") &
  group=$!
  trap 'signal=2 && kill -INT -- "-$group"' INT
  trap 'signal=15 && kill -TERM -- "-$group"' TERM
  trap 'signal=1 && kill -TERM -- "-$group"' HUP # the terminal was closed
  wait "$group" || status=$?
  while kill -0 -- "-$group" 2>/dev/null; do # accelerate may be gone before its ranks are
    wait "$group" 2>/dev/null || sleep 0.2
  done
  if ((signal)); then
    echo "launch.sh: stopped; the same command goes on from the newest checkpoint" >&2
    exit $((128 + signal)) # accelerate's own would be 1
  fi
  if [[ $status == "$killed" || -s $running ]]; then # the only process, and it could say nothing
    say_killed
    exit "$killed"
  fi
  exit "$status"
}

lint() {
  local status=0
  "$venv/bin/python" -m ruff check . || status=1
  "$venv/bin/python" -m ruff format --check . || status=1
  "$venv/bin/python" -m mypy || status=1
  return $status
}

command=${1:-}
shift || true
case $command in
  demo | test | lint | prepare | stage1 | stage2 | tune | mine | judge | plan | eval | report | export | index | search | app | serve | check | bench | study) ;;
  -h | --help | help) usage && exit 0 ;;
  '') usage >&2 && exit 2 ;;
  *) fail "unknown command '$command'; ./launch.sh --help lists them" ;;
esac
program=$(module_of "$command")
if [[ $command == prepare ]]; then
  case ${1:-} in
    teacher) shift ;;
    demo) program=data_prep.demo.data && shift ;;
    real-llm) program=data_prep.real_llm.data && shift ;;
    demo-triples) program=data_prep.demo.triples && shift ;;
    own) program=data_prep.own && shift ;;
    mmeb) program=data_prep.mmeb && shift ;;
    batches) program=data_prep.batches && shift ;;
  esac
fi
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage_of "$command"
  if [[ -n $program ]] && is_ready; then run_python -m "$program" --help; fi
  exit 0
fi

if [[ $command == prepare && ${1:-} == miniatures ]]; then
  [[ -n ${2:-} ]] || fail "prepare miniatures needs the folder to write"
  setup
  run_python -m eval.miniatures "$2"
fi
if [[ $program == data_prep.mmeb ]]; then
  if [[ -n ${1:-} && $1 != *=* && $1 != -* ]]; then
    config=$(config_path "$1")
    set -- "$config" "${@:2}"
  fi
  setup
  run_python -m "$program" "$@"
fi
if [[ $program == data_prep.own ]]; then
  [[ -n ${2:-} ]] || fail "$(usage_of "$command")"
  path=$(from_caller "$1")
  shift
  setup
  run_python -m "$program" "$path" "$@"
fi
case $command in
  prepare | stage1 | stage2 | plan | eval | report)
    [[ -n ${1:-} ]] || fail "$(usage_of "$command")"
    config=$(config_path "$1")
    shift
    ;;
  mine | judge)
    [[ -n ${2:-} ]] || fail "$(usage_of "$command")"
    if [[ $1 == *.yaml || -f $1 || -f $called_from/$1 ]]; then
      config=$(config_path "$1")
      set -- "output_dir=$2" "${@:3}"
    else # a folder, or a repository on the hub
      config=configs/$command.yaml
      set -- "data.root=$1" "output_dir=$2" "${@:3}"
    fi
    ;;
  export) [[ -n ${2:-} ]] || fail "$(usage_of "$command")" ;;
  check | study)
    [[ -n ${1:-} ]] || fail "$(usage_of "$command")"
    if [[ $1 == *.yaml ]]; then
      config=$(config_path "$1") # a failure within other words would end nothing
      set -- "$config" "${@:2}"
    fi
    ;;
  serve | bench) [[ -n ${1:-} ]] || fail "$(usage_of "$command")" ;;
  tune)
    [[ -n ${1:-} ]] || fail "$(usage_of "$command")"
    if [[ -n ${2:-} && $2 != *=* && $2 != -* ]]; then
      config=$(config_path "$2")
      set -- "$1" --config "$config" "${@:3}"
    fi
    ;;
  index)
    [[ -n ${1:-} ]] || fail "$(usage_of "$command")"
    set -- "$(from_caller "$1")" "${@:2}"
    ;;
  search)
    [[ -n ${1:-} ]] || fail "$(usage_of "$command")"
    words=()
    while (($#)); do
      words+=("$1")
      if [[ $1 == --image && -n ${2:-} ]]; then
        words+=("$(from_caller "$2")")
        shift
      fi
      shift
    done
    set -- "${words[@]}"
    ;;
esac
accelerate_config=${UNIME_ACCELERATE_CONFIG:-}
case $command in
  demo | stage1 | stage2 | tune | mine | judge | eval | study)
    if [[ -n $accelerate_config ]]; then
      accelerate_config=$(config_path "$accelerate_config")
      export UNIME_ACCELERATE_CONFIG=$accelerate_config # programs that call launch.sh do so from here
    fi
    ;;
esac
setup
case $command in
  demo | tune | export | index | search | app | serve | check | study) run_python -m "$program" "$@" ;;
  test)
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    # all of it in several processes, each with a whole file at a time
    [[ $# -gt 0 ]] || set -- -n "$(test_processes)" --dist loadfile
    run_python -m pytest "$@"
    ;;
  bench)
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    run_python -m "$program" "$@"
    ;;
  lint) lint ;;
  prepare | plan | report) run_python -m "$program" --config "$config" "$@" ;;
  *)
    check_config "$config" "$@"
    run_accelerate "$program" "$config" "$@"
    ;;
esac
