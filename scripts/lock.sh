#!/usr/bin/env bash
# Writes requirements-ci.txt anew: the versions that .ci/run installs, with hashes. Older pins stay; `scripts/lock.sh
# --upgrade` takes the newest. Needs pip-compile, which is in the package pip-tools, and Python 3.11 on Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
lock=requirements-ci.txt
pip-compile --generate-hashes --allow-unsafe --strip-extras --all-build-deps \
    --extra mpich,plot,sklearn,data,test,check --no-header \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@" \
    --quiet --output-file "$lock" pyproject.toml
pinned=$(cat "$lock")
{
    echo "# The versions that .ci/run installs: every extra, MPICH, and what builds the package. Written by scripts/lock.sh."
    echo
    echo "$pinned"
} > "$lock"
