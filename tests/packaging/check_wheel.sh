#!/bin/sh
# Builds the sdist, the wheel from the sdist, installs it in a fresh environment and uses it from elsewhere.
# usage: check_wheel.sh PYTHON [PIP_ARGS]
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
pip_args=${2:-}
root=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m venv "$work/env"
# shellcheck disable=SC2086  # several arguments on purpose
"$work/env/bin/python" -m pip install --quiet $pip_args -c "$root/constraints.txt" "$work"/dist/*.whl
cd "$work"
"$work/env/bin/tokensweep" --version
"$work/env/bin/tokensweep" train --cfg job method=forking_tokens >"$work/job.yaml"
grep -q 'fraction: 0.2' "$work/job.yaml"
"$work/env/bin/tokensweep" train method=forking_tokens scale=smoke model.steps=2 store="$work/store"
"$work/env/bin/tokensweep" plan forking_tokens scale=tiny store="$work/store" >"$work/plan.txt"
grep -q 'forking_tokens-tiny: 24 runs, 24 to do' "$work/plan.txt"
test -z "$(find "$work" -maxdepth 1 \( -name outputs -o -name multirun -o -name mlruns \))"
echo "wheel: installed and used from another folder"
