#!/usr/bin/env bash
# Installs the package into a virtual environment and launches a run on Cloud TPU slices; the arguments are those of
# `t5x-instruct launch`.
#   ./launch/pod.sh run --gin_file=launch/v5e_16_spot.gin --gin_file=RECIPE.gin ... --dry_run
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh "" # without an argument it would see those of this script
exec t5x-instruct launch "$@"
