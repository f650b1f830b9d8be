#!/usr/bin/env bash
# Runs on each host of a slice, at each boot: fetches the launch's code, installs it once, runs the program, and starts
# it again as its exit code says. It can be run any number of times; only one of it works at a time.
#
# `launch` puts the launch's own values before this text, as assignments: ROOT, ARCHIVE, ARCHIVE_SHA256, HOSTS_OF_SLICE, SLICES,
# PYTHON, EXTRAS, PROGRAM (an array), ENVIRONMENT (an array of NAME=VALUE), LIBTPU_FLAGS, MAX_SECONDS, MAX_FAILURES,
# BACKOFF_SECONDS, HEALTHY_SECONDS, DELETE (an array: the command that gives the slice back), DELETE_ON_SUCCESS (0 or 1).
#
# Exit codes of the program: 0 done; 42 start it again at once; 2 never; any other: again, after a while, a few times.
set -uo pipefail

STATE="${LAUNCH_STATE:-/var/lib/t5x_instruct}"
RUN="${LAUNCH_RUN:-/run/t5x_instruct}" # empty after a boot
TEMPORARY="${LAUNCH_TEMPORARY:-/tmp}"
METADATA="${LAUNCH_METADATA:-http://metadata.google.internal/computeMetadata/v1/instance}"
FETCH_ATTEMPTS="${LAUNCH_FETCH_ATTEMPTS:-20}"
FETCH_SECONDS="${LAUNCH_FETCH_SECONDS:-15}"
COPY_SECONDS="${LAUNCH_COPY_SECONDS:-300}"
FIRST_BACKOFF="${LAUNCH_BACKOFF_SECONDS:-$BACKOFF_SECONDS}"
GRACE_SECONDS="${LAUNCH_GRACE_SECONDS:-60}"
PATH="$PATH:/snap/bin"
export PATH

say() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

# An attribute of this machine; empty where it has none.
attribute() {
  curl --silent --fail --retry 3 --header 'Metadata-Flavor: Google' "$METADATA/attributes/$1" || true
}

# A value of the table that the TPU service writes into one attribute: lines of NAME: 'value'.
tpu_value() {
  attribute tpu-env | sed -n "s/^ *$1 *: *//p" | head -n 1 | tr -d "' \r"
}

# Which host of how many this is, and where host 0 listens. Slices are counted by the service (Megascale).
find_place() {
  local endpoints endpoint first slices
  endpoints="$(attribute worker-network-endpoints)"
  WORKER="$(attribute agent-worker-number)"
  [[ -n "$WORKER" ]] || WORKER="$(tpu_value WORKER_ID)"
  [[ -n "$WORKER" ]] || WORKER=0
  SLICE="$(tpu_value MEGASCALE_SLICE_ID)"
  [[ -n "$SLICE" ]] || SLICE=0
  slices="$(tpu_value MEGASCALE_NUM_SLICES)"
  IFS=',' read -r -a endpoint <<<"$endpoints"
  HOSTS=$((${#endpoint[@]} > 0 ? ${#endpoint[@]} : 1))
  first="${endpoint[0]:-}" # either a host name, or NAME:NUMBER:ADDRESS
  COORDINATOR="${first##*:}"
  first="$(tpu_value MEGASCALE_COORDINATOR_ADDRESS)"
  [[ -z "$first" ]] || COORDINATOR="${first%%:*}"
  NUM_HOSTS=$((HOSTS * ${slices:-1}))
  HOST=$((SLICE * HOSTS + WORKER))
  PLACE="slice$SLICE-host$WORKER"
}

# At a first boot the service may write these attributes late, and a host that took itself for the only one would wait
# for its peers for ever.
find_place_in_time() {
  local attempt
  for ((attempt = 1; attempt <= FETCH_ATTEMPTS; attempt++)); do
    find_place
    if ((HOSTS_OF_SLICE == 1 || HOSTS > 1)) && ((SLICES == 1 || NUM_HOSTS > HOSTS)); then
      return 0
    fi
    sleep "$FETCH_SECONDS"
  done
  return 1
}

# Copies the log to the bucket; never the reason why anything fails.
copy_log() {
  gcloud storage cp --quiet "$LOG" "$ROOT/logs/$PLACE-$BOOT.log" >/dev/null 2>&1 || say "the log could not be copied"
}

# What `launch` reads: one line in a file for each host.
report() {
  printf '%s %s %s %s %s\n' "$PLACE" "$1" "$2" "$(hostname)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$STATE/status"
  gcloud storage cp --quiet "$STATE/status" "$ROOT/status/$PLACE" >/dev/null 2>&1 || say "the status could not be copied"
}

# Gives up or is done; the machine stays, so that one can look at it.
finish() {
  say "$3"
  copy_log
  report "$1" "$2" # after the log: who reads the status finds the log whole
  if [[ "$1" == "done" && "$DELETE_ON_SUCCESS" == 1 && "$HOST" == 0 ]]; then
    sleep "$GRACE_SECONDS" # the other hosts copy their logs
    say "the run is done and the slice is given back, as asked"
    "${DELETE[@]}" || say "the slice could not be deleted: it goes on costing"
  fi
  exit 0
}

# The guard against forgotten slices: host 0 gives the slice back when its time is over, whatever has become of the run.
# It outlives this script, and counts from the first boot on.
guard() {
  local left
  while left=$(($(cat "$STATE/since") + MAX_SECONDS - $(date +%s))) && ((left > 0)); do
    sleep "$((left < COPY_SECONDS ? left : COPY_SECONDS))"
    copy_log
  done
  [[ "$HOST" == 0 ]] || return 0
  say "max_hours are over: the slice is deleted"
  copy_log
  until "${DELETE[@]}"; do
    say "the slice could not be deleted: it goes on costing"
    sleep "$COPY_SECONDS"
  done
}

start_guard() {
  local mark
  mark="$RUN/guard"
  [[ -e "$STATE/since" ]] || date +%s >"$STATE/since"
  if [[ ! -e "$mark" ]] || ! kill -0 "$(cat "$mark")" 2>/dev/null; then
    guard >>"$LOG" 2>&1 </dev/null 9>&- &
    echo "$!" >"$mark"
  fi
}

# Fetches the archive, as often as it takes, and unpacks it beside the others; a whole one is not fetched again.
fetch() {
  local attempt file="$STATE/$ARCHIVE_SHA256.tar.gz"
  CODE="$STATE/code-$ARCHIVE_SHA256"
  [[ ! -e "$CODE/.unpacked" ]] || return 0
  for ((attempt = 1; attempt <= FETCH_ATTEMPTS; attempt++)); do
    if gcloud storage cp --quiet "$ARCHIVE" "$file" && sha256sum --check --status <<<"$ARCHIVE_SHA256  $file"; then
      rm -rf "$CODE"
      mkdir -p "$CODE"
      tar -xzf "$file" -C "$CODE" && rm -f "$file" && touch "$CODE/.unpacked" && return 0
    fi
    say "attempt $attempt of $FETCH_ATTEMPTS to fetch $ARCHIVE failed"
    rm -f "$file"
    sleep "$FETCH_SECONDS"
  done
  return 1
}

# An environment of the lock file's versions, once for each archive; any Python can make it, uv brings the right one.
install() {
  local attempt
  VENV="$STATE/venv-$ARCHIVE_SHA256"
  [[ ! -e "$VENV/.installed" ]] || return 0
  for ((attempt = 1; attempt <= FETCH_ATTEMPTS; attempt++)); do
    if make_environment; then
      touch "$VENV/.installed"
      return 0
    fi
    say "attempt $attempt of $FETCH_ATTEMPTS to install failed"
    sleep "$FETCH_SECONDS"
  done
  return 1
}

make_environment() {
  local tools="$STATE/tools"
  if ! "$tools/bin/uv" --version >/dev/null 2>&1; then
    python3 -m venv "$tools" || { apt-get update && apt-get install --yes python3-venv && python3 -m venv "$tools"; } ||
      return 1
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv || return 1
  fi
  rm -rf "$VENV"
  "$tools/bin/uv" venv --quiet --python "$PYTHON" "$VENV" || return 1
  (cd "$CODE" && "$tools/bin/uv" pip install --quiet --python "$VENV/bin/python" --constraint constraints.txt \
    --editable ".$EXTRAS")
}

prepare_machine() {
  ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  ulimit -l unlimited 2>/dev/null || true
  export LIBTPU_INIT_ARGS="$LIBTPU_FLAGS"
  export JAX_COMPILATION_CACHE_DIR="${ROOT%/*}/compile_cache"
  export T5X_INSTRUCT_CACHE="$STATE/cache"
  if ((NUM_HOSTS > 1)); then
    export T5X_INSTRUCT_COORDINATOR="$COORDINATOR:8476" T5X_INSTRUCT_NUM_HOSTS="$NUM_HOSTS" T5X_INSTRUCT_HOST="$HOST"
  fi
  local variable
  for variable in ${ENVIRONMENT[@]+"${ENVIRONMENT[@]}"}; do
    export "${variable?}"
  done
}

# One run of the program; its exit code is CODE_OF_PROGRAM. A signal to this script goes to the program, and is waited for.
run_program() {
  rm -f "$TEMPORARY/libtpu_lockfile" # left by a process that was killed, it keeps the chips from the next one
  (cd "$CODE" && exec "$VENV/bin/${PROGRAM[0]}" "${PROGRAM[@]:1}") 9>&- &
  CHILD=$!
  echo "$CHILD" >"$STATE/pid"
  while true; do
    SIGNALLED=0
    wait "$CHILD"
    CODE_OF_PROGRAM=$?
    ((SIGNALLED)) || break # else a signal has ended the waiting, not the program
  done
  rm -f "$STATE/pid"
}

run_until_done() {
  local failures=0 delay="$FIRST_BACKOFF" started
  while true; do
    [[ ! -e "$RUN/shutdown" ]] || finish interrupted 42 "this machine is going away"
    [[ ! -e "$STATE/stop" ]] || finish stopped 42 "stopped as asked; 'launch run' goes on from the last checkpoint"
    report running -
    started=$SECONDS
    say "starting: ${PROGRAM[*]}"
    run_program
    say "the program ended with exit code $CODE_OF_PROGRAM after $((SECONDS - started)) s"
    copy_log
    case "$CODE_OF_PROGRAM" in
      0) finish "done" 0 "done" ;;
      2) finish refused 2 "usage or configuration: starting it again would not help" ;;
      42) continue ;;
    esac
    if ((SECONDS - started >= HEALTHY_SECONDS)); then
      failures=0
      delay="$FIRST_BACKOFF"
    fi
    failures=$((failures + 1))
    if ((failures > MAX_FAILURES)); then
      finish gave_up "$CODE_OF_PROGRAM" "$failures faults in a row: left alone, so that one can look at it"
    fi
    report waiting "$CODE_OF_PROGRAM"
    say "fault $failures of at most $MAX_FAILURES: again in $delay s"
    sleep "$delay"
    delay=$((delay * 2 > 600 ? 600 : delay * 2))
  done
}

# The program is told to save and end; `wait` above comes back and its exit code is judged as always.
pass_on() {
  SIGNALLED=1
  [[ -z "${CHILD:-}" ]] || kill -TERM "$CHILD" 2>/dev/null || true
}

main() {
  mkdir -p "$STATE/log" "$RUN"
  exec 9>"$STATE/lock"
  flock --nonblock 9 || { say "already at work"; exit 0; }
  BOOT="$(date -u +%Y%m%dT%H%M%SZ)"
  LOG="$STATE/log/run.log"
  exec > >(tee -a "$LOG") 2>&1
  find_place_in_time || PLACE_UNKNOWN=1
  say "host $HOST of $NUM_HOSTS ($PLACE)"
  trap copy_log EXIT
  trap pass_on TERM INT
  start_guard
  report starting -
  [[ -z "${PLACE_UNKNOWN:-}" ]] || finish gave_up 1 "the metadata do not tell the hosts of this slice"
  fetch || finish gave_up 1 "$ARCHIVE cannot be fetched"
  install || finish gave_up 1 "the package cannot be installed"
  prepare_machine
  run_until_done
}

main
