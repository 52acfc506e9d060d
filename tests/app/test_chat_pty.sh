#!/bin/sh
# A chat on a terminal: Ctrl-C, history, pastes, colour.  Needs python3 for the terminal.
#   tests/app/test_chat_pty.sh PROGRAM
set -u
if ! python3 -c 'import pty' 2>/dev/null; then
    echo "skipped: no python3 with pty"
    exit 77
fi
if [ ! -f models/demo-q5.hlwq ]; then
    echo "skipped: models/demo-q5.hlwq is not there"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 tests/app/chat_pty.py "$1" "$dir"
