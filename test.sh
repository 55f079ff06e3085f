#!/usr/bin/env bash
# Every check there is: formatting, lints, and the tests of every crate, the lab's last.
#
#   ./test.sh           all of it; as root, or nothing that needs root is tested
#   ./test.sh --quick   for developers: no set-up, no root, no lab
#
# As root, or with CI=true, nothing may be skipped for want of root (UNDERSTUDY_REQUIRE_ROOT=1).
# UNDERSTUDY_TEST_TIMEOUT: seconds that each step may take, default 2700.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null
PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
LIMIT="${UNDERSTUDY_TEST_TIMEOUT:-2700}"
[ -t 1 ] || export CARGO_TERM_COLOR=never
export CARGO_TERM_PROGRESS_WHEN=never
# Nobody builds a second time there.
[ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0

quick=0
case "${1-}" in
    "") ;;
    --quick) quick=1 ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

# A runner that is not root but may become it does, or half of the tests could not run.
if [ "$quick" -eq 0 ] && [ "${CI:-}" = true ] && [ "$(id -u)" -ne 0 ] && sudo -n true 2>/dev/null; then
    exec sudo -nE env "PATH=$PATH" "HOME=$HOME" "$BASH" "$PWD/test.sh" "$@"
fi
if [ "$quick" -eq 0 ] && { [ "${CI:-}" = true ] || [ "$(id -u)" -eq 0 ]; }; then
    export UNDERSTUDY_REQUIRE_ROOT=1
fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

# Without a group of its own at a terminal, so that Ctrl-C reaches it.
bound=(timeout --kill-after=30)
[ ! -t 1 ] || bound+=(--foreground)

step() {
    local begun=$SECONDS
    printf '== %s\n' "$*"
    "${bound[@]}" "$LIMIT" "$@" 2>&1 | tee -a "$log" || {
        printf '== failed: %s\n' "$*"
        total
        exit 1
    }
    printf '== %s s\n' "$((SECONDS - begun))"
}

# Adds up the closing lines that cargo test prints.
total() {
    awk -v seconds="$SECONDS" '
        /^test result:/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^failed/) failed += $(i - 1)
                if ($i ~ /^ignored/) ignored += $(i - 1)
            }
        }
        /^skipped: / { skipped++ }
        END {
            printf "total: %d passed, %d failed, %d ignored, %d skipped themselves, %d s\n",
                passed, failed, ignored, skipped, seconds
        }' "$log"
}

# A test that cannot run says so in a line of its own and passes. A machine without /dev/net/tun
# cannot show DPDK's TAP driver, which nothing here needs.
skips() { grep '^skipped: ' "$log" | grep -v net_tap; }

# Always of the whole workspace: what cargo builds of it depends on the packages that are asked for,
# and each other choice would build some sixty of them once more. Test files are chosen by name.
tests() {
    # --show-output: what a passing test says, "skipped:" above all, must be seen.
    step cargo test --locked --no-fail-fast --workspace "$@" --show-output
}

# From paths of test files, their names as cargo takes them.
names() {
    local path name
    while read -r path; do
        name="$(basename "$path" .rs)"
        [ "$name" != main ] || name="$(basename "$(dirname "$path")")"
        printf '%s\n' "$name"
    done | sort -u
}

[ "$quick" -eq 1 ] || step dpdk-build/setup.sh
step cargo fmt --all --check
step cargo clippy --locked --workspace --all-targets -- -D warnings
mapfile -t lab < <(find tests/lab/tests -maxdepth 1 -name '*.rs' | names)
mapfile -t others < <(find configs perf dataplane controlplane dpdk-build tests -path tests/lab -prune \
    -o -path '*/src' -prune -o -path '*/tests/*.rs' -print | grep -E '/tests/([^/]+|[^/]+/main)\.rs$' | names)
same="$(printf '%s\n' "${others[@]}" "${lab[@]}" | sort | uniq -d)"
[ -z "$same" ] || { echo "failed: the lab has test files with names of others: $same"; exit 1; }
[ "$quick" -eq 1 ] || step cargo build --locked --workspace --all-targets
if [ "$quick" -eq 0 ]; then
    # By itself: crates that are built together share features, and instructions differ.
    step cargo build --locked --release -p understudy-perf-gate
    step "${CARGO_TARGET_DIR:-target}/release/perf-gate"
fi
tests --lib --bins "${others[@]/#/--test=}" --
tests --doc --
[ "$quick" -eq 1 ] || tests "${lab[@]/#/--test=}" -- --test-threads=1
total
if [ "${UNDERSTUDY_REQUIRE_ROOT:-}" = 1 ] && skips; then
    echo "failed: the tests above were skipped, and none may be"
    exit 1
fi
