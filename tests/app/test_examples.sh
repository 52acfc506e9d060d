#!/bin/sh
# The curl commands of the README and of docs/, taken from the text as it stands, asked of a server.
#   tests/app/test_examples.sh PROGRAM
set -u
command -v curl >/dev/null 2>&1 || { echo "skipped: no curl"; exit 77; }
[ -f models/demo-q5.hlwq ] || { echo "skipped: models/demo-q5.hlwq is not there"; exit 77; }
. tests/app/shell.sh

"$program" serve -m models/demo-q5.hlwq --port 0 --ctx 512 2>"$dir/log" &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$dir"' EXIT
port=
for _ in $(seq 600); do
    port=$(sed -n 's|.*http://127.0.0.1:\([0-9]*\)/.*|\1|p' "$dir/log")
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { cat "$dir/log"; exit 1; }

# A command is a line that begins with "curl", and those up to the end of its text in quotes.
cat README.md docs/*.md | awk '
    /^curl / { on = 1 }
    on { line = line $0; if (gsub(/\047/, "&", line) % 2) next; print line; line = ""; on = 0 }' >"$dir/commands"
count=0
while IFS= read -r command; do
    count=$((count + 1))
    # Answers of any length would take long here; the demo model does not end its texts by itself.
    here=$(printf '%s\n' "$command" | sed -e "s/127\.0\.0\.1:8080/127.0.0.1:$port/" \
        -e "/max_tokens/!s/-d '{/-d '{\"max_tokens\": 8, /")
    sh -c "$here" >"$dir/out" 2>"$dir/err" </dev/null || fail "exit code $?: $command"
    if grep -q '"stream": true' <<END
$command
END
    then
        [ "$(tail -n 2 "$dir/out" | head -n 1)" = "data: [DONE]" ] || fail "a stream that does not end: $command"
    fi
    ! grep -q '"error"' "$dir/out" || fail "$command"
    [ -s "$dir/out" ] || fail "nothing came: $command"
done <"$dir/commands"
[ "$count" -ge 5 ] || fail "only $count commands were found"
kill $server
wait $server || fail "the server ended with $?"
echo "$count commands, $failures failures"
[ "$failures" = 0 ]
