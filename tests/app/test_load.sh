#!/bin/sh
# scripts/load in small: clients that hang up, dawdle or send nonsense beside those whose answers are checked.
#   tests/app/test_load.sh PROGRAM
set -u
command -v python3 >/dev/null 2>&1 || { echo "skipped: no python3"; exit 77; }
[ -f models/demo-q5.hlwq ] || { echo "skipped: models/demo-q5.hlwq is not there"; exit 77; }
growth=8
[ -n "${HLWQ_SANITIZE:-}" ] && growth=200 # what is freed stays in quarantine
exec python3 scripts/load "$1" --clients 4 --requests 5 --tokens 8 --bodies 6 --limit 600 --growth $growth \
    --options "--parallel 3 --ctx 512"
