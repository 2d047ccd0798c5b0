#!/usr/bin/env bash
# Writes requirements-ci.txt, requirements-docs.txt and requirements-torch.txt anew: the versions that .ci/run installs, with hashes. Older pins
# stay; `scripts/lock.sh --upgrade` takes the newest. Needs pip-compile, which is in the package pip-tools, Python 3.11
# on Linux, and an index with PyTorch's CPU build (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu).
set -euo pipefail
cd "$(dirname "$0")/.."

lock() { # file, its first lines, options of pip-compile
    local file=$1 head=$2
    shift 2
    pip-compile --generate-hashes --allow-unsafe --strip-extras --no-header \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --quiet --output-file "$file" "$@"
    pinned=$(cat "$file")
    printf '%s\n\n%s\n' "$head" "$pinned" > "$file"
}

lock requirements-ci.txt \
    "# The versions that .ci/run installs: every extra but torch, MPICH, and what builds the package. Written by scripts/lock.sh." \
    --all-build-deps --extra mpich,plot,sklearn,data,test,check "$@" pyproject.toml
lock requirements-docs.txt \
    "# What builds the documentation, beside requirements-ci.txt. Written by scripts/lock.sh." \
    --constraint requirements-ci.txt --extra docs "$@" pyproject.toml
lock requirements-torch.txt \
    "# PyTorch, the CPU build, for the tests of it, and what it needs beside requirements-ci.txt. Written by scripts/lock.sh.
# For Linux the public index has GPU builds alone: the CPU's are at https://download.pytorch.org/whl/cpu." \
    --constraint requirements-ci.txt "$@" - <<< 'torch==2.13.0+cpu'
