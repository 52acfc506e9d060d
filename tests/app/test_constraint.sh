#!/bin/sh
# run and chat with --json-schema and --grammar-json.
#   tests/app/test_constraint.sh PROGRAM
set -u
if [ ! -f models/demo-q5.hlwq ]; then
    echo "skipped: models/demo-q5.hlwq is not there"
    exit 77
fi
. tests/app/shell.sh

schema='{"type":"object","properties":{"name":{"type":"string","pattern":"^[A-Z][a-z]{1,8}$"},"age":{"type":"integer","minimum":1,"maximum":99}},"required":["name","age"]}'
flat='^[{] *"name": *"[A-Z][a-z]{1,8}", *"age": *[1-9][0-9]? *[}]$'

for seed in 1 2 3; do
    "$program" run -n 200 --seed $seed --json-schema "$schema" "Call me" >"$dir/out" 2>"$dir/err" || fail "seed $seed: exit code"
    tr -s '\n\t ' '   ' <"$dir/out" | sed 's/ *$//' | grep -Eq "$flat" || fail "seed $seed: not of the schema"
done

# A file is the same as its text, and the same seed gives the same text.
printf '%s\n' "$schema" >"$dir/schema.json"
"$program" run -n 200 --seed 3 --json-schema "$dir/schema.json" "Call me" >"$dir/out2" 2>"$dir/err"
cmp -s "$dir/out" "$dir/out2" || fail "a schema in a file gives another text"

"$program" run -n 2 --json-schema "$schema" "Call me" >"$dir/out" 2>"$dir/err"
grep -q 'not complete' "$dir/err" || fail "a text that was cut is not said to be"

"$program" run -q --grammar-json '{"root":"a","rules":{"a":{"any":["yes","no"]}}}' "Is it?" >"$dir/out" 2>"$dir/err"
grep -Eqx 'yes|no' "$dir/out" || fail "a grammar of two words"

"$program" run --json-schema '{"not":{}}' x >"$dir/out" 2>"$dir/err"
code=$?
{ [ $code = 1 ] || [ $code = 2 ]; } && grep -q 'keyword "not"' "$dir/err" || fail "an unsupported keyword: $code"
"$program" run --json-schema "$dir/none.json" x >"$dir/out" 2>"$dir/err" && fail "a file that is not there"
"$program" run --json-schema '{}' --grammar-json '{}' x >"$dir/out" 2>"$dir/err"
[ $? = 2 ] || fail "both at once"

"$program" serve --json-schema '{}' >"$dir/out" 2>"$dir/err" # a request says it
[ $? = 2 ] || fail "serve takes an option that it would ignore"

printf 'Who are you?\n' | "$program" chat -q -n 200 --think off --json-schema "$schema" >"$dir/out" 2>"$dir/err" || fail "chat: exit code"
tr -s '\n\t ' '   ' <"$dir/out" | sed 's/^ *//; s/ *$//' | grep -Eq "$flat" || fail "chat: not of the schema"

# What is thought is free, also by a model that would rather end its text: the schema holds from </think> on.
answered=0
for seed in 1 2 3 4 5 6 7 8 9 10 11 12; do
    printf 'Who are you?\n' | "$program" chat -q -n 150 --think on --temp 8 --seed $seed --json-schema "$schema" >"$dir/out" 2>"$dir/err" || fail "chat --think on: exit code"
    grep -q 'not complete\|still thinking' "$dir/err" && continue
    sed '1,/<.think>/d' "$dir/out" | tr -s '\n\t ' '   ' | sed 's/^ *//; s/ *$//' >"$dir/answer"
    [ -s "$dir/answer" ] || continue
    grep -Eq "$flat" "$dir/answer" || fail "chat, seed $seed: not of the schema after its thoughts"
    [ $((answered += 1)) -lt 2 ] || break
done
[ $answered -ge 2 ] || fail "$answered chats came to an answer after their thoughts"

[ $failures = 0 ]
