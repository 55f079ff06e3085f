#!/bin/sh
# checkpoint.ready_command for a redis-server: waits until it has loaded its data. It answers while it
# loads, with errors that no client must see.
# Argument: its port, 6379 if none is given.
set -u
port=${1:-6379}
until [ "$(redis-cli -h 127.0.0.1 -p "$port" ping 2>/dev/null)" = PONG ]; do
    sleep 0.01
done
