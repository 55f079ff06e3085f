#!/usr/bin/env bash
# The demonstration: kills the machine of a running Redis and shows that its clients do not notice.
#
#   ./demo.sh [OPTION ...]   the options are the demo's own, see ./demo.sh --help
#
# Sets the machine up (dpdk-build/setup.sh), builds what it needs, and runs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"

# stdout is the demo's alone, so that --json gives one document.
dpdk-build/setup.sh >&2
cargo build --locked -p understudy-daemon -p understudy-cli -p understudy-lab --bins >&2

demo="${CARGO_TARGET_DIR:-target}/debug/demo"
if [ "$(id -u)" -eq 0 ]; then exec "$demo" "$@"; else exec sudo "$demo" "$@"; fi
