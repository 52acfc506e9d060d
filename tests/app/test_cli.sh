#!/bin/sh
# The program as a user meets it: exit codes, sentences, closed and full outputs, interruption.
#   tests/app/test_cli.sh PROGRAM
set -u
. tests/app/shell.sh

# expect CODE WORD ARGUMENTS...: the exit code, and WORD in what was printed to stderr ("" = any).
expect() {
    code=$1 word=$2
    shift 2
    "$program" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    got=$?
    [ $got -eq "$code" ] || fail "$*: exit $got, wanted $code"
    [ -z "$word" ] || grep -qF -- "$word" "$dir/err" || fail "$*: no \"$word\""
    if [ "$code" -ne 0 ] && [ "$(grep -c 'error:' "$dir/err")" -ne 1 ]; then
        fail "$*: not exactly one error line"
    fi
}

# same WORDS: the last output's first line.
same() {
    [ "$(head -n 1 "$dir/out")" = "$1" ] || fail "wanted \"$1\", got \"$(head -n 1 "$dir/out")\""
}

# ---- usage ----
"$program" >"$dir/out" 2>"$dir/err" </dev/null
[ $? -eq 2 ] || fail "no arguments: not exit 2"
expect 2 'did you mean run?' rnu
expect 2 'did you mean --temperature?' run --temprature 1 x
expect 2 '--top-p' run --top-p 2 x
expect 2 '-n' run -n many x
expect 2 'stands where a command should' -m x run
expect 2 'SOURCE' convert
expect 2 '-o FILE' convert x
expect 2 '--bits' convert x -o y --bits 1
expect 2 '--bits' convert x -o y --bits 16
expect 2 'i4|i4z|i4g64|i4g64z' convert x -o y --bits i4g32
expect 2 '--bits' synth --like 9b -o "$dir/x" --bits 0
expect 2 '--ids-file' logits -o x
expect 2 '--ppl' bench --ref x
expect 2 'nothing to measure' bench -p 0 -n 0
expect 2 '--like' synth -o x
expect 2 '-o FILE' synth --like 9b
expect 2 'empty' run ''
expect 0 '' --version
same "hlwq-stream $("$program" version | cut -d ' ' -f 2)"
expect 0 '' --help
expect 0 '' help --man
for command in run chat convert info logits tokenize template bench synth version help; do
    expect 0 '' $command --help
    [ -s "$dir/out" ] || fail "$command --help: nothing on stdout"
done
for shell in zsh fish; do
    expect 0 '' --completion $shell
    grep -q -e top-k "$dir/out" || fail "completion for $shell does not know --top-k"
    if command -v $shell >/dev/null; then
        $shell -n "$dir/out" || fail "completion is not $shell"
    fi
done
expect 2 'bash, zsh and fish' --completion csh
expect 0 '' --completion bash
if command -v bash >/dev/null; then
    bash -n "$dir/out" || fail "completion is not bash"
    bash -c '. "$1"; COMP_WORDS=(hlwq-stream run --top-); COMP_CWORD=2; _hlwq_stream; echo "${COMPREPLY[*]}"' \
        x "$dir/out" >"$dir/words" 2>"$dir/err"
    [ "$(cat "$dir/words")" = "--top-k --top-p" ] || fail "completion of --top-: $(cat "$dir/words")"
    bash -c '. "$1"; COMP_WORDS=(hlwq-stream help qu); COMP_CWORD=2; _hlwq_stream; echo "${COMPREPLY[*]}"' \
        x "$dir/out" >"$dir/words" 2>"$dir/err"
    [ "$(cat "$dir/words")" = quantize ] || fail "completion of help qu: $(cat "$dir/words")"
fi

# ---- files that are not there ----
expect 1 "$dir/none" run -m "$dir/none" hello
expect 1 "$dir/none" info "$dir/none"
expect 1 "$dir/none" tokenize -m "$dir/none" x
expect 1 "$dir/none" convert "$dir/none" -o "$dir/x"
expect 1 "$dir/none" run -f "$dir/none"
[ ! -e "$dir/x" ] || fail "a failed convert left its output"
mkdir "$dir/hlwq-stream"
printf '{"top-q": 1}\n' >"$dir/hlwq-stream/config.json"
expect 2 'config.json: unknown option top-q' run x
rm "$dir/hlwq-stream/config.json"

# ---- outputs that cannot be written ----
if [ -w /dev/full ]; then
    "$program" --help >/dev/full 2>"$dir/err"
    [ $? -eq 1 ] || fail "--help >/dev/full: not exit 1"
    grep -qF 'standard output' "$dir/err" || fail "--help >/dev/full: no sentence"
fi
"$program" --help >&- 2>"$dir/err"
[ $? -eq 1 ] || fail "--help >&-: not exit 1"

if [ ! -f models/demo-q5.hlwq ]; then
    echo "skipped the rest: models/demo-q5.hlwq is not there"
    finish 77
fi
export HLWQ_MODEL=models/demo-q5.hlwq

# ---- a model ----
expect 0 'tok/s' run -n 8 --temp 0 "The old man"
[ -s "$dir/out" ] || fail "run printed nothing"
cp "$dir/out" "$dir/first"
for threads in 1 2 7; do
    expect 0 '' run -q -n 8 --temp 0 -t $threads "The old man"
    cmp -s "$dir/out" "$dir/first" || fail "$threads threads: another text"
    [ ! -s "$dir/err" ] || fail "-q is not quiet"
done
printf 'The old man\n' >"$dir/prompt"
expect 0 '' run -n 8 --temp 0 -f "$dir/prompt"
cmp -s "$dir/out" "$dir/first" || fail "-f: another text"
"$program" run -n 8 --temp 0 <"$dir/prompt" >"$dir/out" 2>"$dir/err"
cmp -s "$dir/out" "$dir/first" || fail "stdin: another text"
expect 0 '' run -n 8 --temp 0 --echo "The old man"
grep -q '^The old man' "$dir/out" || fail "--echo did not"
LC_ALL=de_DE.UTF-8 "$program" run -n 8 --temperature 0.0 "The old man" >"$dir/out" 2>"$dir/err"
cmp -s "$dir/out" "$dir/first" || fail "another locale: another text"
expect 0 '' run -n 4 --report "$dir/report.json" "The old man"
for key in load_seconds prefill decode tok_per_s logits_hash kinds peak_rss_bytes; do
    grep -qF "\"$key\"" "$dir/report.json" || fail "--report lacks $key"
done
expect 0 '' run -n 12 --temp 0.9 --seed 5 "The old man"
head -c -1 "$dir/out" >"$dir/whole"
expect 0 '' run -n 5 --temp 0.9 --seed 5 --session "$dir/s" "The old man"
head -c -1 "$dir/out" >"$dir/parts"
expect 0 'prefill 0 tokens' run -n 7 --session "$dir/s"
head -c -1 "$dir/out" >>"$dir/parts"
cmp -s "$dir/whole" "$dir/parts" || fail "--session goes on elsewhere: $(cat "$dir/parts")"

expect 0 'context of 16 positions' run -c 16 -n -1 "The old man"
expect 3 '' run --ram 1M "The old man"
expect 0 '' info
expect 0 '' info --json
grep -q '^{"schema":1,' "$dir/out" || fail "info --json has no schema"

text='The old man looked at the sea and'
expect 0 '' tokenize "$text"
ids=$(cat "$dir/out")
printf '%s' "$ids" >"$dir/ids"
"$program" tokenize --decode <"$dir/ids" >"$dir/out" 2>"$dir/err"
[ "$(cat "$dir/out")" = "$text" ] || fail "tokenize --decode: $(cat "$dir/out")"

# ---- template ----
# prompt REQUEST WANTED: what the template in $dir/t makes of it, quoted so that newlines show.
prompt() {
    printf '%s' "$1" | "$program" template --template "$dir/t" >"$dir/out" 2>"$dir/err"
    [ "$(cat "$dir/out"; echo .)" = "$2." ] || fail "template: $1 gives \"$(cat "$dir/out")\""
}
# refused CODE WORD REQUEST
refused() {
    printf '%s' "$3" | "$program" template --template "$dir/t" >"$dir/out" 2>"$dir/err"
    got=$?
    [ $got -eq "$1" ] || fail "template: $3: exit $got, wanted $1"
    grep -qF -- "$2" "$dir/err" || fail "template: $3: no \"$2\""
    [ -s "$dir/out" ] && fail "template: $3: something on stdout"
}
hi='"messages":[{"role":"user","content":"Hi"}]'
printf '%s\n' '{{ messages[0].content }}' '{% if add_generation_prompt %}' '>{{ x }}' '{% endif %}' >"$dir/t"
prompt "{$hi}" 'Hi
'
prompt "{$hi,\"add_generation_prompt\":true,\"x\":[1.0,null]}" 'Hi
>[1.0, None]
'
refused 2 'not a JSON object' '[]'
refused 2 'JSON line 1' '{'
refused 2 '"messages" is missing' '{}'
refused 2 'at least one message' '{"messages":[]}'
printf '\n{{ raise_exception("no") }}' >"$dir/t"
refused 2 'line 2: no' "{$hi}"
printf '\n\n{%% if %%}' >"$dir/t"
refused 1 'line 3' "{$hi}"
printf '{%% for i in range(99999) %%}{%% for j in range(99999) %%}{%% endfor %%}{%% endfor %%}' >"$dir/t"
refused 1 'steps' "{$hi}"
expect 1 "$dir/none" template --template "$dir/none"
mkdir "$dir/chat"
expect 1 'no chat template' template -m "$dir/chat"
printf '{"bos_token":{"content":"<s>"},"chat_template":"{{ bos_token }}{{ messages[0].role }}"}' \
    >"$dir/chat/tokenizer_config.json"
printf '%s' "{$hi}" | "$program" template -m "$dir/chat" >"$dir/out" 2>"$dir/err"
same '<s>user'
printf 'jinja' >"$dir/chat/chat_template.jinja"
printf '%s' "{$hi}" | "$program" template -m "$dir/chat" >"$dir/out" 2>"$dir/err"
same 'jinja'

printf '%s' "$text" | "$program" tokenize >"$dir/out" 2>"$dir/err"
same "$ids"
expect 0 '' logits --ids-file "$dir/ids" -o "$dir/whole" --json
expect 0 '' logits --ids-file "$dir/ids" -o "$dir/one" --chunk 1
expect 0 '' logits --ids-file "$dir/ids" -o "$dir/split" --split 5
count=$(wc -w <"$dir/ids")
for name in whole one split; do
    [ "$(wc -c <"$dir/$name")" -eq $((count * 4096 * 4)) ] || fail "logits: $name has another size"
done
echo '1 2 99999' >"$dir/bad"
expect 1 '99999' logits --ids-file "$dir/bad" -o "$dir/none"
[ ! -e "$dir/none" ] || fail "failed logits left their output"
echo '1 two' >"$dir/bad"
expect 1 "$dir/bad" logits --ids-file "$dir/bad" -o "$dir/none"
yes "$text" | head -n 60 >"$dir/text"
expect 0 '' bench --ppl "$dir/text" --ctx 64 --max-windows 2 --ref models/demo-q5.hlwq
grep -qF 'agreement 100.00 %' "$dir/out" || fail "a model differs from itself: $(cat "$dir/out")"

expect 0 '' bench --kv-memory --svg "$dir/kv.svg"
grep -q '>k4v3, 1/4.41</text>' "$dir/kv.svg" || fail "bench --kv-memory --svg: $(head -c 300 "$dir/kv.svg")"
plot() { printf '{"title":"t","log_y":true,"series":[{"name":"a","points":%s}]}' "$1" >"$dir/points"; }
plot '[[2,0.1],[4,0.01]]'
expect 0 '' bench --plot "$dir/points" --svg "$dir/plot.svg"
[ "$(grep -c '<circle' "$dir/plot.svg")" -eq 2 ] || fail "bench --plot: $(head -c 300 "$dir/plot.svg")"
expect 2 '--svg FILE' bench --plot "$dir/points"
plot '[[2,0]]'
expect 1 'logarithmic axis' bench --plot "$dir/points" --svg "$dir/bad.svg"
plot '[[2]]'
expect 1 'two numbers' bench --plot "$dir/points" --svg "$dir/bad.svg"
plot '[]'
expect 1 '1 to 64' bench --plot "$dir/points" --svg "$dir/bad.svg"
[ ! -e "$dir/bad.svg" ] || fail "a bad plot left a file"
expect 0 '' bench -p 16 -n 4 -r 1 --csv
grep -q '^prefill,16,1,[0-9.]*,' "$dir/out" || fail "bench --csv: $(cat "$dir/out")"
expect 0 '' bench kernels Q5 ref -p 1 -t 1 --csv
[ "$(grep -c '^ref,Q5,.*,1,' "$dir/out")" -eq 4 ] || fail "bench kernels: $(cat "$dir/out")"
expect 0 '' bench kernels q3 ref -p 2 -t 1 --json
grep -q '"tokens":2,' "$dir/out" || fail "bench kernels --json: $(cat "$dir/out")"
expect 0 '' bench kernels i4g64z ref -p 3 -t 1 --csv
[ "$(grep -c '^ref,I4G64Z,.*,3,' "$dir/out")" -eq 4 ] || fail "bench kernels i4g64z: $(cat "$dir/out")"
expect 1 'Q9' bench kernels Q9
expect 1 'I9' bench kernels I9
expect 2 'speed of light' bench 'speed of light'

# ---- budgets ----
expect 0 '' plan --ram 24M --ctx 256
grep -q ' of 256, .*the rest of .* is streamed' "$dir/out" || fail "plan: $(cat "$dir/out")"
expect 0 '' plan --ram 24M --ctx 256 --json
grep -q '"slots": 1[0-9][0-9],' "$dir/out" || fail "plan --json: $(cat "$dir/out")"
expect 3 'smallest --ram that works is' plan --ram 5M
expect 3 'smallest --ram that works is' run --ram 5M hello
expect 0 '' run -q --temp 0 -n 24 --ctx 256 "The old man looked at the sea and"
cp "$dir/out" "$dir/resident"
for io in auto pread mmap; do
    expect 0 '' run --temp 0 -n 24 --ctx 256 --ram 20M --io $io --report "$dir/report" "The old man looked at the sea and"
    cmp -s "$dir/out" "$dir/resident" || fail "run --ram 20M --io $io: another text"
    grep -q 'hit rate' "$dir/err" || fail "run --ram 20M --io $io: no line about streaming"
    grep -q '"misses": [1-9]' "$dir/report" || fail "run --ram 20M --io $io: $(cat "$dir/report")"
done
expect 2 'belady' run --cache-policy belady hello
expect 2 'multiple of 64' run --batch 65 hello
expect 0 '' doctor --ram 20M --ctx 256
grep -q 'limited by the' "$dir/out" || fail "doctor: $(cat "$dir/out")"
expect 0 '' doctor --json
printf '1 4 3 0\n0 0 1 0\n1 0 1 0\n2 0 2 0\n' >"$dir/trace"
expect 0 '' sim "$dir/trace" --slots 2
[ "$(head -n 1 "$dir/out")" = 'hit rate 33.33 %' ] || fail "sim: $(cat "$dir/out")"
expect 0 '' sim "$dir/trace" --slots 1 --policy belady --json
expect 2 'slots' sim "$dir/trace"
printf '1 4 3 0\n0 0 9 0\n' >"$dir/trace"
expect 1 'line 2' sim "$dir/trace" --slots 1
expect 1 'none' sim "$dir/none" --slots 1

expect 0 '' run -q --temp 0 -n 20 --ctx 256 --trace "$dir/trace" "The old man looked at the sea and"
[ "$(head -n 1 "$dir/trace")" = '8 32 0000000028 0000000008' ] || fail "run --trace: $(head -n 1 "$dir/trace")"
[ "$(wc -l <"$dir/trace")" -eq $((1 + 28 * 8 * 2)) ] || fail "run --trace: $(wc -l <"$dir/trace") lines"
expect 0 '' sim "$dir/trace" --slots 8
grep -q '^448 lookups' "$dir/out" || fail "sim of a run's trace: $(cat "$dir/out")"
expect 1 'no/such' run -n 1 --trace no/such/folder/trace hello

# ---- endings ----
if [ -w /dev/full ]; then
    "$program" run -q -n 8 "The old man" >/dev/full 2>"$dir/err"
    [ $? -eq 1 ] || fail "run >/dev/full: not exit 1"
    expect 1 '' logits --ids-file "$dir/ids" -o /dev/full
fi
(
    ulimit -f 8
    "$program" logits --ids-file "$dir/ids" -o "$dir/large" 2>"$dir/err.large"
)
[ $? -eq 1 ] || fail "logits beyond the file size limit: not exit 1"
grep -qF "$dir/large" "$dir/err.large" || fail "logits beyond the file size limit: no sentence"
set -- "$dir"/large*
[ ! -e "$1" ] || fail "logits beyond the file size limit left $1"
"$program" run -n 8 "The old man" <&- >"$dir/out" 2>"$dir/err" || fail "stdin closed: exit $?"
"$program" run <&- >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] || fail "stdin closed and no prompt: not exit 1"
{ "$program" run -n 200 "The old man" 2>"$dir/err"; echo $? >"$dir/code"; } | head -c 1 >/dev/null
[ "$(cat "$dir/code")" = 0 ] || fail "reader left: exit $(cat "$dir/code")"
grep -q 'error' "$dir/err" && fail "reader left: not quiet"
"$program" run -n -1 "The old man" >"$dir/out" 2>"$dir/err" &
pid=$!
tries=0
while [ ! -s "$dir/out" ] && [ $tries -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -INT $pid
wait $pid
[ $? -eq 130 ] || fail "interrupted run: not exit 130"
grep -q 'tok/s' "$dir/err" || fail "interrupted run: no summary"

finish 0
