#!/bin/sh
# checkpoint.snapshot_command for a redis-server that works in service.work_dir: saves the data set.
# Argument: its port, 6379 if none is given.
#
# Runs in the capsule, in service.work_dir, while redis is given nothing and sleeps. Exit 75 means
# that it cannot be saved at this moment, and a moment later, perhaps; any other failure is final.
set -eu
port=${1:-6379}

cli() {
    redis-cli -h 127.0.0.1 -p "$port" "$@"
}

# What redis knows of a connection beside its bytes is not in the data set. Half a request, a
# transaction, a command that blocks end sooner or later. Another database than 0, or a subscription,
# stay: this application cannot be saved so.
cli client list | awk '
    / cmd=client/ { next }
    {
        for (i = 1; i <= NF; i++) {
            split($i, field, "=")
            is[field[1]] = field[2]
        }
        if (is["db"] != 0 || is["sub"] + is["psub"] + is["ssub"] > 0) {
            print "the connection of " is["addr"] " has selected a database, or subscribes"
            exit 1
        }
        if (is["qbuf"] > 0 || is["argv-mem"] > 0 || is["multi"] >= 0 || is["flags"] ~ /b/) {
            print "the connection of " is["addr"] " is in the middle of a request"
            exit 75
        }
    }'

saved=$(cli save)
if [ "$saved" != OK ]; then
    echo "redis does not save: $saved"
    exit 1
fi
# Not left behind: a redis that starts from nothing would load it.
mv dump.rdb "$UNDERSTUDY_SNAPSHOT_DIR/dump.rdb"
