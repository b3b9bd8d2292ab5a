#!/bin/sh
# The demo's path at a size for tests: sweep, table, nothing to do the second time, MLflow rebuilt.
# usage: smaller_demo.sh TOKENSWEEP
set -eu
tokensweep=$1
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
small="scale=tiny seeds=0,1 arms=all,top20 steps=4 model.steps=40 eval.held_out=24 store=$store"
"$tokensweep" sweep forking_tokens $small
"$tokensweep" sweep forking_tokens $small | grep 'forking_tokens-tiny: 8 runs, 0 to do'
rm "$store/mlflow.db"
"$tokensweep" sync --all store="$store"
"$tokensweep" report forking_tokens store="$store" | grep 'top20'
test -s "$store/sweeps/forking_tokens-tiny/report/report.md"
test -s "$store/mlflow.db"
echo "smaller demo: table, second call without work, database rebuilt"
