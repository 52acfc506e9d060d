#!/bin/sh
# The plan of an 8 GB card for published geometries, against the memory tables that the project was designed with (MiB).
#   tests/app/test_plan.sh PROGRAM
set -u
. tests/app/shell.sh
[ "${HLWQ_DEVICE:-}" != cpu ] || { echo "skipped: HLWQ_DEVICE=cpu plans for no card"; exit 77; }

# number NAME TEXT: the value of a JSON member, the last one of that name (the card's).
number() { printf '%s' "$2" | tr ',{}' '\n\n\n' | sed -n "s/^ *\"$1\": *\([0-9]*\)$/\1/p" | tail -n 1; }

# near WHAT BYTES MIB: within 3 %, and 6 MiB more for blocks that end within a page of the card.
near() {
    awk -v bytes="$2" -v want="$3" 'BEGIN { have = bytes / 1048576; exit !(bytes != "" && have < 1.03 * want + 6 && have > 0.97 * want) }' ||
        fail "$1: $2 bytes, wanted $3 MiB within 3 %"
}

# model NAME GEOMETRY: heads of five bits, as in the tables.
model() {
    "$program" synth --like "$2" --head-bits 5 --dry -o "$dir/$1.hlwq" 2>"$dir/err" || fail "synth --like $2"
}
# plan NAME CONTEXT: into $text, and what the card holds of weights, whether there for good or in the cache, into $weights
plan() {
    text=$("$program" plan -m "$dir/$1.hlwq" --vram 8G --ram 32G --kv q3 --ctx "$2" --json 2>"$dir/err") || fail "plan $*"
    weights=$(($(number trunk_bytes "$text") + $(number slots_bytes "$text")))
    [ "$(number total_bytes "$text")" -le 8589934592 ] || fail "$1: more than the card has: $text"
}

# Resident weights; context in q3 and one DeltaNet state (a deferred commit needs no second); what the cache holds.
model 9b 9b
plan 9b 32768
near "9b: weights" "$weights" 4858
near "9b: context" "$(number state_bytes "$text")" 249
plan 9b 131072
near "9b: context of 131072" "$(number state_bytes "$text")" 849

model 27b 27b
plan 27b 32768
near "27b: head" "$(number trunk_bytes "$text")" 777
near "27b: context" "$(number state_bytes "$text")" 545
layers=$(number slots "$text")
[ "$layers" -ge 23 ] && [ "$layers" -le 25 ] || fail "27b: $layers layers on the card, wanted 24"

# The layers that do not stay are shared with the CPU: how, and how fast that is, is reckoned with, on any machine.
case $text in *'"cpu_share": 0.'[1-9]* | *'"cpu_share": 1.'*) ;; *) fail "27b: no share for the CPU: $text" ;; esac
case $text in *'"tok_per_s": 0.00'*) fail "27b: no speed: $text" ;; *'"tok_per_s": '*) ;; *) fail "27b: $text" ;; esac
[ "$(number staging_bytes "$text")" -ge 1048576 ] || fail "27b: no staging memory: $text"

model 35b 35b-a3b
plan 35b 32768
near "35b: weights of every token" "$(number trunk_bytes "$text")" 1219
near "35b: context" "$(number state_bytes "$text")" 186
near "35b: experts" "$(($(number slots "$text") * 1048576))" 2990
plan 35b 131072
near "35b: context of 131072" "$(number state_bytes "$text")" 561
near "35b: experts beside 131072" "$(($(number slots "$text") * 1048576))" 2795

# A full context is read for every token: where most of it is below the card, that is what limits.
full() {
    text=$("$program" plan -m "$dir/35b.hlwq" --ram 32G --kv f16 --json "$@" 2>"$dir/err") || fail "plan $*"
    limit=$(printf '%s' "$text" | sed 's/.*"full_bottleneck": "\([^"]*\)".*/\1/')
    faster=$(printf '%s' "$text" | sed 's/.*"tok_per_s": \([0-9.]*\), .*"full_tok_per_s": \([0-9.]*\), .*/\1 \2/' |
        awk '{ print ($1 > $2) + ($1 > 2 * $2) }')
}
full --vram 3G --ctx 262144
[ "$limit" = "keys and values that are copied to the card" ] || fail "35b, 3G: limited by $limit: $text"
[ "$faster" = 2 ] || fail "35b, 3G: not slower at the end: $text"
full --vram 8G --ctx 64
[ "$limit" != "keys and values that are copied to the card" ] || fail "35b, 64 tokens: limited by $limit: $text"
[ "$faster" != 2 ] || fail "35b, 64 tokens: much slower at the end: $text"
[ "$(number context "$text")" -eq 64 ] || fail "35b: not for 64 tokens: $text"

finish 0
