#!/usr/bin/env bash
# Installs the package with its test extra into a virtual environment and runs linter, type checker and tests.
#   ./launch/test.sh                    everything but the slow proofs
#   ./launch/test.sh tests/data -x      pytest's arguments; linter and type checker are left out then
#   PYTHON=python3.13 VENV=.venv313 ./launch/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh test

if [[ $# -eq 0 ]]; then
  ruff check .
  ruff format --check .
  mypy
fi
# Three at a time: much of a test is tracing and compiling, on one core, and some of it is waiting. A file stays in one
# process, with its fixtures.
exec python -m pytest -n 3 --dist loadfile "$@"
