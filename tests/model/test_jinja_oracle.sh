#!/bin/sh
# Jinja2 itself, where it is installed: are the stored answers still its answers, and does the program agree with it on
# random expressions?   tests/model/test_jinja_oracle.sh PROGRAM [COUNT [SEED]]
set -u
program=$1
if ! python3 -c 'import jinja2, sys; sys.exit(tuple(map(int, jinja2.__version__.split(".")[:2])) < (3, 1))' 2>/dev/null; then
    echo "skipped: python3 has no jinja2 3.1"
    exit 77
fi
PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore python3 tests/golden/jinja/make_jinja.py --check "$program" "${2:-150}" "${3:-1}"
