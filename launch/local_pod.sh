#!/usr/bin/env bash
# Installs the package into a virtual environment and tries a pod on this machine: as many processes as hosts, each with
# devices that the CPU plays, joined as the hosts of a pod are. What follows -- are the arguments of t5x-instruct.
#   ./launch/local_pod.sh --hosts 4 --devices-per-host 2 -- train --gin_file=recipes/tiny.gin --gin.MODEL_DIR=runs/pod ...
#   ./launch/local_pod.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh "" # without an argument it would see those of this script
exec python -m t5x_instruct.cloud.local_pod "$@"
