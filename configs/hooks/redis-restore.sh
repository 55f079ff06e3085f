#!/bin/sh
# checkpoint.restore_command for a redis-server that works in service.work_dir: puts the data set where
# redis loads it when it starts.
#
# Runs in service.work_dir before every start of redis. $UNDERSTUDY_SNAPSHOT_DIR is empty when redis
# starts from nothing; otherwise it names the directory that the snapshot command filled, which must
# stay as it is.
set -eu
rm -f dump.rdb
if [ -n "$UNDERSTUDY_SNAPSHOT_DIR" ]; then
    cp "$UNDERSTUDY_SNAPSHOT_DIR/dump.rdb" dump.rdb
fi
