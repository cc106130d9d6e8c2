#!/usr/bin/env bash
# Counts instructions of the engine's hot paths and compares them with benches/counts.json; --bless writes them there.
# What is counted, and how: crates/cli/examples/counts.rs and docs/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(uname -m)" != x86_64 ]; then
    echo "instruction counts are kept for x86-64 only: NOT compared on $(uname -m)"
    exit 0
fi
if ! command -v valgrind >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "valgrind is not installed; installing it"
    { apt-get update && apt-get install -y valgrind; } >/dev/null 2>&1 || true
fi
if ! command -v valgrind >/dev/null; then
    echo "valgrind is not there and could not be installed: instruction counts were NOT compared"
    exit 0
fi
exec cargo run --quiet --release --locked -p subrosa --example counts -- "$@"
