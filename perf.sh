#!/usr/bin/env bash
# Measures Understudy beside the tools it is held against, and prints the main table.
#
#   ./perf.sh [OPTION ...]   the options are those of `perf run`, see ./perf.sh --help
#
# Sets the machine up (dpdk-build/setup.sh --perf), builds what it needs, and runs it as root.
# Results, report and plots go to target/perf, or where --out says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"

dpdk-build/setup.sh --perf >&2
cargo build --locked --release -p understudy-daemon -p understudy-cli -p understudy-lab \
    -p understudy-perf -p understudy-perf-dpdk -p understudy-perf-gate --bins >&2

perf="${CARGO_TARGET_DIR:-target}/release/perf"
if [ "$(id -u)" -eq 0 ]; then exec "$perf" run "$@"; else exec sudo env "PATH=$PATH" "$perf" run "$@"; fi
