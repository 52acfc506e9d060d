#!/bin/sh
# A chat through pipes: turns, commands, files, exit codes.
#   tests/app/test_chat.sh PROGRAM
set -u
. tests/app/shell.sh

# chat CODE INPUT OPTIONS...: what printf makes of INPUT goes in.
chat() {
    code=$1 input=$2
    shift 2
    # shellcheck disable=SC2059 # INPUT is a format on purpose
    printf "$input" | "$program" chat "$@" >"$dir/out" 2>"$dir/err"
    got=$?
    [ $got -eq "$code" ] || fail "chat $*: exit $got, wanted $code"
}
# says WORDS, to stderr
says() {
    grep -qF -- "$1" "$dir/err" || fail "no \"$1\""
}
# What the last /stats counted: tokens read since the conversation was last read.
prefilled() {
    sed -n 's/.*prefill \([0-9]*\) tokens.*/\1/p' "$dir/err" | tail -n 1
}

# ---- without a model ----
chat 2 '' --think maybe
says '--think'
chat 2 '' --no-such-flag
says '--no-such-flag'
chat 2 '' hello
says 'hello'
chat 1 'hi\n' -m "$dir/none"
says "$dir/none"
mkdir "$dir/empty"
chat 1 'hi\n' -m "$dir/empty"
says '--template FILE'

if [ ! -f models/demo-q5.hlwq ]; then
    echo "skipped the rest: models/demo-q5.hlwq is not there"
    finish 77
fi
export HLWQ_MODEL=models/demo-q5.hlwq HLWQ_TEMPERATURE=0 HLWQ_PREDICT=8 HLWQ_CTX=512

chat 1 'hi\n' --template "$dir/none"
says "$dir/none"

# ---- drafts: another turn, another answer, a file, and the same text ----
talk="The old man\\nThe sea was\\n/regen\\n/save $dir/talk.json\\n/undo\\nWho came?\\n/load $dir/talk.json\\nAnd then?\\n"
for temperature in 0 0.9; do
    chat 0 "$talk" --think off -n 24 --temp $temperature --seed 3
    cp "$dir/out" "$dir/plain"
    for draft in "auto --draft-always" "lookup --draft-depth 5"; do
        # shellcheck disable=SC2086 # a list of options
        chat 0 "$talk/stats\\n" --think off -n 24 --temp $temperature --seed 3 --draft $draft
        cmp -s "$dir/out" "$dir/plain" || fail "--draft $draft at temperature $temperature says something else"
    done
    grep -Eq 'drafts: [0-9]+ of [0-9]+ right .MTP., [0-9]+ of [1-9][0-9]* .repetitions' "$dir/err" || fail "/stats counts no drafts"
done
[ "$(wc -l <"$dir/plain")" -ge 5 ] || fail "not five answers"

# ---- turns ----
chat 0 ''
[ ! -s "$dir/out" ] || fail "nothing said, something answered"
chat 0 'The old man' --think off
[ -s "$dir/out" ] || fail "the last line lacks its end: no answer"
cp "$dir/out" "$dir/one"
chat 0 'The old man\n\n  \n/stats\nThe sea was\n' --think off
head -c "$(wc -c <"$dir/one")" "$dir/out" | cmp -s - "$dir/one" || fail "the first answer differs"
[ "$(wc -c <"$dir/out")" -gt "$(wc -c <"$dir/one")" ] || fail "no second answer"
says 'tok/s'
says 'seed 0'
grep -q "$(printf '\033')" "$dir/out" "$dir/err" && fail "an escape sequence in a pipe"
chat 0 'The old man\r\n' --think off
cmp -s "$dir/out" "$dir/one" || fail "a carriage return changes the message"
chat 0 'The old man\n/quit\nmore\n' --think off
cmp -s "$dir/out" "$dir/one" || fail "/quit did not end"
chat 0 "\"\"\"The old\\nman\"\"\"\\n/save $dir/a\\n/undo\\nThe old\\\\\\nman\\n/save $dir/b\\n" --think off
cmp -s "$dir/a" "$dir/b" || fail "two ways to write two lines"
grep -qF '"The old\nman"' "$dir/a" || fail "a message of two lines: $(cat "$dir/a")"
chat 0 'The old man\n'
[ "$(head -n 1 "$dir/out")" = '<think>' ] || fail "thinking is not marked"
chat 0 'The old man\n' --think on --template tests/golden/chat/Qwen3.5-4B.jinja
[ "$(head -n 1 "$dir/out")" = '<think>' ] || fail "--think on with a template"

# ---- what is typed is not a special token ----
chat 0 'x\n/stats\n' -n 1 --think off
few=$(prefilled)
chat 0 'x<|im_end|>\n/stats\n' -n 1 --think off
[ "$(prefilled)" -gt $((few + 4)) ] || fail "<|im_end|> was read as $(($(prefilled) - few)) tokens"

# ---- only what is new is read ----
printf '%s' '{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}' >"$dir/t"
chat 0 'The old man\nand\n/stats\n' --template "$dir/t" -v
grep -q 'read again' "$dir/err" && fail "a conversation that goes on was read again"
says 'decode 16 tokens'
chat 0 'The old man\nand\nthen\n' --think off -v
[ "$(grep -c 'read again' "$dir/err")" -eq 1 ] || fail "reading again is not said once"
chat 0 'The old man\n/undo\nThe old man\n' --template "$dir/t"
[ "$(grep -c . "$dir/out")" -eq 2 ] && [ "$(grep . "$dir/out" | uniq | wc -l)" -eq 1 ] || fail "/undo left something"

# ---- ten turns with reasoning, which the template drops: each reads what is new and at most 64 tokens more ----
say= turn=0
while [ $turn -lt 10 ]; do
    say="$say"'The old man went down to the sea again and it was '"$turn"' in the evening\n/stats\n'
    turn=$((turn + 1))
done
chat 0 "$say" --think on --template tests/golden/chat/Qwen3.5-4B.jinja --ctx 2048 -n 6
sed -n 's/.*the last prompt: \([0-9]*\) tokens, \([0-9]*\) of.*/\1 \2/p' "$dir/err" >"$dir/turns"
[ "$(wc -l <"$dir/turns")" -eq 10 ] || fail "not ten turns"
awk '{ if ($2 > $1 - last + 64) exit 1; last = $1; read += $2 } END { exit read >= 3 * last }' "$dir/turns" ||
    fail "read again: $(tr '\n' ';' <"$dir/turns")"

# ---- sessions ----
chat 0 'The old man\nThe sea\nand then\n' --think off --seed 3 --temp 0.9
cp "$dir/out" "$dir/whole"
chat 0 'The old man\nThe sea\n' --think off --seed 3 --temp 0.9 --session "$dir/s"
cp "$dir/out" "$dir/first"
chat 0 'and then\n/save '"$dir"'/other.session\n/save '"$dir"'/talk.json' --think off --temp 0.9 --session "$dir/s"
cat "$dir/first" "$dir/out" | cmp -s - "$dir/whole" || fail "--session goes on elsewhere"
[ "$(grep -c '"role"' "$dir/talk.json")" -eq 6 ] || fail "a session holds another conversation"
chat 0 "/load $dir/other.session\\n/undo\\nand then\\n" --think off --temp 0.9
tail -n 1 "$dir/whole" | cmp -s - "$dir/out" || fail "/load of a session goes on elsewhere"
chat 2 'hi\n' --session "$dir/s" --kv q3
says '--kv f16, this is --kv q3'
chat 1 'hi\n' --session "$dir/talk.json"
says 'is not a session'

# ---- commands ----
chat 1 '/help\n/foo\n/sav\n/undo\n/regen\n/set colour red\n/set top_p 2\n/load\n'
for word in '/regen' 'no command /foo' 'did you mean /save?' 'nothing to take back' 'no message to answer' 'colour' \
    'top_p' '/load FILE'; do
    says "$word"
done
[ ! -s "$dir/out" ] || fail "commands write to stdout"
chat 0 'The old man\n/set temperature 1.5\n/set seed 5\n/undo\nThe old man\n' --think off
[ "$(sed -n 1p "$dir/out")" = "$(cat "$dir/one")" ] || fail "greedy differs"
[ "$(sed -n 2p "$dir/out")" != "$(cat "$dir/one")" ] || fail "/set changed nothing"
chat 0 'The old man\n/regen\n' --think off --temp 1.5 --template "$dir/t"
[ "$(grep . "$dir/out" | uniq | wc -l)" -gt 1 ] || fail "/regen gives the same answer"
chat 0 '/set n 2\n/system Be brief.\nThe old man\n/stats\n' --template "$dir/t"
with=$(prefilled)
chat 0 '/set n 2\nThe old man\n/stats\n' --template "$dir/t" --system 'Be brief.'
[ "$(prefilled)" = "$with" ] || fail "--system and /system differ"
chat 0 '/set n 2\n/system\nThe old man\n/stats\n' --template "$dir/t" --system 'Be brief.'
[ "$(prefilled)" -lt "$with" ] || fail "/system does not take it away"

# ---- files ----
chat 0 "The old man\\n/save $dir/saved.json\\nThe sea\\n" --think off
cp "$dir/out" "$dir/whole"
grep -qF '"content": "The old man"' "$dir/saved.json" || fail "/save: $(cat "$dir/saved.json")"
chat 0 "/load $dir/saved.json\\nThe sea\\n/save $dir/again.json" --think off
tail -n "$(wc -l <"$dir/out")" "$dir/whole" | cmp -s - "$dir/out" || fail "/load goes on elsewhere"
chat 0 "/load $dir/again.json\\n/undo\\n/save $dir/undone.json\\n"
cmp -s "$dir/undone.json" "$dir/saved.json" || fail "/save, /load, /undo, /save: another file"
printf '{"messages":[{"role":"system","content":"a\\u0001<|im_end|>"},{"role":"user","content":"\\ud83d\\ude00"}]}' >"$dir/odd.json"
chat 0 "/load $dir/odd.json\\n/save $dir/odd2.json\\n/load $dir/odd2.json\\n/regen\\n" --think off
[ -s "$dir/out" ] || fail "/regen does not answer a loaded question"
# hostile TEXT: refused with one sentence, and the chat goes on as it was
hostile() {
    printf '%s' "$1" >"$dir/hostile.json"
    chat 1 "The old man\\n/load $dir/hostile.json\\n/save $dir/after.json\\n" --think off
    [ "$(grep -c 'error:' "$dir/err")" -eq 1 ] || fail "hostile file $1: not one sentence"
    cmp -s "$dir/after.json" "$dir/saved.json" || fail "hostile file $1 changed the conversation"
}
hostile ''
hostile '[]'
hostile '{"messages":{}}'
hostile '{"messages":[1]}'
hostile '{"messages":[{"role":"user"}]}'
hostile '{"messages":[{"role":"user","content":7}]}'
hostile '{"messages":[{"role":"robot","content":"x"}]}'
hostile '{"messages":[{"role":"user","content":"x"},{"role":"system","content":"x"}]}'
hostile '{"messages":[{"role":"user","content":"x\u0000y"}]}'
hostile '{"messages":[{"role":"user","role":"user","content":"x"}]}'
hostile "$(printf '{"messages":[{"role":"user","content":"\377"}]}')"
hostile "$(head -c 5000 /dev/zero | tr '\0' '[')"
chat 1 "/load $dir/none\\n/load $dir\\n/save $dir\\n/save $dir/no/such/folder/x\\n"
[ "$(grep -c 'error:' "$dir/err")" -eq 4 ] || fail "files that are none: not four sentences"
[ ! -e "$dir/state" ] || fail "a history was written without a terminal"

# ---- limits ----
chat 0 'The old man\n/stats\n' --template "$dir/t" -c 24 -n -1
says 'context of 24 tokens is full'
long=$(yes 'word' | head -n 80 | tr '\n' ' ')
chat 1 "$long\\nThe old man\\n" --template "$dir/t" -c 32
says '/undo or /reset'
[ -s "$dir/out" ] || fail "after a message that is too long: no answer"
printf 'a\000b\377c\n/save %s\n' "$dir/bytes.json" | "$program" chat --think off >"$dir/out" 2>"$dir/err" ||
    fail "bytes that are no text: exit $?"
grep -qF "$(printf 'ab\357\277\275c')" "$dir/bytes.json" || fail "bytes that are no text: $(cat "$dir/bytes.json")"
chat 0 'The old man\n' --think off --ram 20M --ctx 256 -n 8
cmp -s "$dir/out" "$dir/one" || fail "streamed: another answer"
"$program" chat <&- >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] || fail "stdin closed: not exit 1"
if [ -w /dev/full ]; then
    printf 'x\n' | "$program" chat >/dev/full 2>"$dir/err" && fail "chat >/dev/full: exit 0"
fi
printf 'The old man\nThe sea\n' | { "$program" chat -n 200 2>"$dir/err"; echo $? >"$dir/code"; } | head -c 1 >/dev/null
[ "$(cat "$dir/code")" = 0 ] || fail "reader left: exit $(cat "$dir/code")"

finish 0
