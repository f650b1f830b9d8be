#!/usr/bin/env bash
# Runs on a host that is about to go away (preemption gives about 30 seconds): the program saves a checkpoint and ends.
set -uo pipefail

STATE="${LAUNCH_STATE:-/var/lib/t5x_instruct}"
RUN="${LAUNCH_RUN:-/run/t5x_instruct}"
SECONDS_LEFT="${LAUNCH_SHUTDOWN_SECONDS:-25}"

mkdir -p "$RUN"
touch "$RUN/shutdown" # the restart loop of startup.sh starts nothing any more
program="$(cat "$STATE/pid" 2>/dev/null)" || exit 0
kill -TERM "$program" 2>/dev/null || exit 0
while ((SECONDS_LEFT > 0)) && kill -0 "$program" 2>/dev/null; do
  sleep 1
  SECONDS_LEFT=$((SECONDS_LEFT - 1))
done
