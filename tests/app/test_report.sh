#!/bin/sh
# scripts/report writes one page with every chart in it, and the same logits under both budgets.
#   tests/app/test_report.sh PROGRAM
set -u
. tests/app/shell.sh
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }

scripts/report --program "$program" -m models/demo-q5.hlwq --ctx 256 --steps 2 --runs 1 --tokens 8 -o "$dir/page.html" >"$dir/out" 2>"$dir/err" ||
    fail "scripts/report"
[ "$(grep -o '<svg' "$dir/page.html" | wc -l)" -eq 4 ] || fail "four charts: speed, hit rate, tiers, keys and values"
grep -q "Every budget gave the same logits" "$dir/page.html" || fail "one hash"
! grep -qE '(src|href)=' "$dir/page.html" || fail "nothing outside the page"
scripts/report --program "$program" -m "$dir/none.hlwq" -o "$dir/none.html" 2>"$dir/err" && fail "a model that is not there"
grep -q "none.hlwq" "$dir/err" || fail "a sentence about it"
[ ! -e "$dir/none.html" ] || fail "no page without a model"
finish 0
