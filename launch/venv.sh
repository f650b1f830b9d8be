# Sourced by the other scripts: makes and enters the virtual environment.
#   source launch/venv.sh [EXTRA]
# PYTHON: the interpreter to make it from (3.11 or newer). VENV: its folder (.venv).
# shellcheck shell=bash
VENV="${VENV:-.venv}"
if [[ ! -x "$VENV/bin/python" ]]; then
  "${PYTHON:-python3}" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d; set PYTHON" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
  echo "Making $VENV ..."
  "${PYTHON:-python3}" -m venv "$VENV"
fi
# shellcheck source=/dev/null
source "$VENV/bin/activate"
requirements="$(cat setup.py pyproject.toml | cksum) ${1:-}"
if [[ "$(cat "$VENV/installed${1:+-$1}" 2>/dev/null)" != "$requirements" ]]; then
  echo "Installing into $VENV (a few minutes the first time) ..."
  python -m pip install --quiet --disable-pip-version-check -e ".${1:+[$1]}"
  echo "$requirements" >"$VENV/installed${1:+-$1}"
fi
