#!/bin/sh
# The server, asked as clients ask: answers, streams, refusals, hang-ups, the end.  Needs python3 (its own library only).
#   tests/app/test_serve.sh PROGRAM
set -u
if ! command -v python3 >/dev/null 2>&1; then
    echo "skipped: no python3"
    exit 77
fi
if [ ! -f models/demo-q5.hlwq ]; then
    echo "skipped: models/demo-q5.hlwq is not there"
    exit 77
fi
exec python3 tests/app/serve.py "$1" models/demo-q5.hlwq
