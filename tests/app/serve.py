# What a server of answers promises, asked of a running one: python3 serve.py PROGRAM MODEL
import atexit
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

PROGRAM, MODEL = sys.argv[1:3]
failures = []


def check(what, ok, seen=""):
    if not ok:
        failures.append(what)
        print(f"FAILED: {what}: {str(seen)[:600]}")


def end(process):
    if process.poll() is None:
        process.kill()
        process.wait()


class Server:
    def __init__(self, *options, env=None):
        command = [PROGRAM, "serve", "-m", MODEL, "--port", "0", "--ctx", "1024", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        atexit.register(end, self.process)  # also where a check raises
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            if found:
                self.port = int(found.group(1))
                break
        else:
            raise SystemExit("the server did not start: " + "".join(self.said))
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()

    def raw(self, method, path, body=None, headers=None, timeout=120):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        text = r.read()
        c.close()
        return r.status, text, r.headers

    def ask(self, path, body, headers=None):
        status, text, _ = self.raw("POST", path, body, headers)
        return status, json.loads(text)

    def metric(self, name):
        text = self.raw("GET", "/metrics")[1].decode()
        return float(re.search(rf"^hlwq_{name} (\S+)$", text, re.M).group(1))

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(120)


def events(text):
    """The chunks of a stream, and whether it ended as it should."""
    lines = [line for line in text.decode().split("\n\n") if line and not line.startswith(":")]
    return [json.loads(line[6:]) for line in lines[:-1]], lines[-1] == "data: [DONE]"


def chat(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0.8, "seed": 7, "max_tokens": 12, **more}


def joined(chunks, key):
    return "".join(c["delta"].get(key) or "" for d in chunks for c in d["choices"])


def answers(s):
    status, whole = s.ask("/v1/chat/completions", chat("Who is there?"))
    message = whole["choices"][0]["message"]
    check("an answer", status == 200 and message["role"] == "assistant", whole)
    check("usage adds up", whole["usage"]["total_tokens"] == whole["usage"]["prompt_tokens"] + 12, whole)
    status, text, headers = s.raw("POST", "/v1/chat/completions",
                                  chat("Who is there?", stream=True, stream_options={"include_usage": True}))
    chunks, ended = events(text)
    check("a stream", ended and headers["Content-Type"].startswith("text/event-stream"), text)
    check("a stream says what an answer says", joined(chunks, "content") == message["content"]
          and joined(chunks, "reasoning_content") == message.get("reasoning_content", ""), chunks)
    check("a stream begins with a role", chunks[0]["choices"][0]["delta"]["role"] == "assistant", chunks[0])
    check("usage comes last", chunks[-1]["usage"]["completion_tokens"] == 12 and not chunks[-1]["choices"], chunks[-1])
    check("a reason to end", chunks[-2]["choices"][0]["finish_reason"] == "length", chunks[-2])
    status, off = s.ask("/v1/chat/completions", chat("Who?", chat_template_kwargs={"enable_thinking": False}))
    check("no thoughts when thinking is off", "reasoning_content" not in off["choices"][0]["message"], off)

    status, text = s.ask("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0})
    plain = text["choices"][0]["text"]
    check("a continuation", status == 200 and plain and text["choices"][0]["finish_reason"] == "length", text)
    word = plain[4:7]
    status, text = s.ask("/v1/completions",
                         {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "stop": ["zzzzz", word]})
    check("a stop string ends it and is left out",
          text["choices"][0]["text"] == plain[:plain.index(word)] and text["choices"][0]["finish_reason"] == "stop", text)
    ids = s.ask("/tokenize", {"content": "Once upon a time"})[1]["tokens"]
    check("ids back to text", s.ask("/detokenize", {"tokens": ids})[1]["content"] == "Once upon a time")
    status, text = s.ask("/v1/completions",
                         {"prompt": [ids, "Once upon a time"], "max_tokens": 12, "temperature": 0, "logprobs": 2})
    status, info, _ = s.raw("GET", "/tokenizer_info")
    end = json.loads(info)["eos_token"]
    check("the token that ends a text is one", status == 200
          and len(s.ask("/tokenize", {"prompt": end, "add_special_tokens": False})[1]["tokens"]) == 1, info)
    check("ids back to a prompt", s.ask("/detokenize", {"tokens": ids})[1]["prompt"] == "Once upon a time")
    check("ids and texts are the same prompt", [c["text"] for c in text["choices"]] == [plain, plain], text)
    check("two prompts, two choices", [c["index"] for c in text["choices"]] == [0, 1], text)
    status, echo = s.ask("/v1/completions",
                         {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True})
    lp = echo["choices"][0]["logprobs"]
    check("echo scores the prompt", len(lp["tokens"]) == len(ids) + 1 and lp["token_logprobs"][0] is None
          and all(x <= 0 for x in lp["token_logprobs"][1:]), lp)
    check("what was chosen has the logprob it was scored with",
          abs(lp["token_logprobs"][-1] - text["choices"][0]["logprobs"]["token_logprobs"][0]) < 1e-4, lp)
    check("echo gives the prompt back", echo["choices"][0]["text"].startswith("Once upon a time"), echo)
    status, none = s.ask("/v1/completions", {"prompt": "Once", "max_tokens": 0, "echo": True})
    check("no tokens at all", status == 200 and none["choices"][0]["text"] == "Once", none)
    status, lp = s.ask("/v1/chat/completions", chat("Hi", logprobs=True, top_logprobs=3))
    content = lp["choices"][0]["logprobs"]["content"]
    check("logprobs of a chat", len(content) == 12 and len(content[0]["top_logprobs"]) == 3
          and content[0]["top_logprobs"][0]["logprob"] >= content[0]["logprob"], lp)


TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "a <b>, <|im_end|> and \"more\"",
          "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]


def tools(s):
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        body = chat("Weather?", tools=TOOLS, tool_choice=choice, max_tokens=40, parallel_tool_calls=False)
        status, r = s.ask("/v1/chat/completions", body)
        message = r["choices"][0]["message"]
        check("a call that must be made is made", status == 200 and (message.get("tool_calls") or choice == "required"), r)
        for call in message.get("tool_calls", []):
            json.loads(call["function"]["arguments"] or "{}")
            check("the name asked for", choice == "required" or call["function"]["name"] == "get_weather", r)
        chunks, ended = events(s.raw("POST", "/v1/chat/completions", {**body, "stream": True})[1])
        streamed = {}
        for d in chunks:
            for c in d["choices"]:
                for t in c["delta"].get("tool_calls", []):
                    streamed.setdefault(t["index"], "")
                    streamed[t["index"]] += t["function"].get("arguments", "")
        check("calls stream as they come whole", ended and [streamed[i] for i in sorted(streamed)] == [
            c["function"]["arguments"] for c in message.get("tool_calls", [])], (streamed, message))
    history = [{"role": "user", "content": "W?"},
               {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {
                   "name": "get_weather", "arguments": "{\"city\": \"Oslo\", \"n\": 3, \"l\": [\"<|im_end|>\"]}"}}]},
               {"role": "tool", "tool_call_id": "a", "content": "cold"}]
    status, r = s.ask("/apply-template", {"messages": history, "tools": TOOLS})
    check("calls go back into the prompt", status == 200 and "<parameter=city>\nOslo\n</parameter>" in r["prompt"]
          and "<tool_response>\ncold\n</tool_response>" in r["prompt"]
          and "a <b>, <|im_end|> and \\\"more\\\"" in r["prompt"], r)


STRICT = {"type": "object", "required": ["c", "n", "u"], "properties": {
    "c": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"}, "n": {"type": "integer", "minimum": 1, "maximum": 14},
    "u": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}}}


def strict_tools(s):
    """Arguments of a strict tool are of its schema, whoever else is answered; those of others are free."""
    tools = [{"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": STRICT}}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    got = [None] * 4

    def one(i):
        got[i] = s.ask("/v1/chat/completions", chat("Weather?", tools=tools, tool_choice=named, max_tokens=150, seed=i,
                                                    temperature=1.2, parallel_tool_calls=False))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for status, r in got:
        try:
            a = json.loads(r["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])
            check("arguments of their schema", list(a) == STRICT["required"] and re.fullmatch("[A-Z][a-z]{1,8}", a["c"])
                  and type(a["n"]) is int and 1 <= a["n"] <= 14 and (a["u"] is None or len(a["u"]) <= 9), r)
            check("and the call ends it", r["choices"][0]["finish_reason"] == "tool_calls", r)
        except (KeyError, ValueError, TypeError) as e:
            check(f"a strict call: {e!r}", False, r)
    body = chat("Weather?", tools=tools, tool_choice=named, max_tokens=150, seed=2, temperature=1.2, parallel_tool_calls=False)
    chunks, ended = events(s.raw("POST", "/v1/chat/completions", {**body, "stream": True})[1])
    streamed = "".join(t["function"].get("arguments", "") for d in chunks for c in d["choices"]
                       for t in c["delta"].get("tool_calls", []))
    check("a strict call streams as it comes whole", ended and streamed == got[2][1]["choices"][0]["message"]["tool_calls"][0][
        "function"]["arguments"], (streamed, got[2]))
    loose = [{"type": "function", "function": {**tools[0]["function"], "strict": False}}]
    status, r = s.ask("/v1/chat/completions", {**body, "tools": loose, "max_tokens": 30})
    check("without strict they are free", status == 200, r)
    for parameters, word in ((None, "strict"), ({"type": "object", "properties": {"x": {"not": {}}}}, '"not"'),
                             ({"type": "object", "properties": {"x": {"type": ["string", "number"]}}}, "null"),
                             ({"type": "string"}, "object")):
        function = {"name": "f", "strict": True, **({"parameters": parameters} if parameters else {})}
        status, r = s.ask("/v1/chat/completions", chat("x", tools=[{"type": "function", "function": function}]))
        check("a strict schema that is not supported is refused", status == 400 and word in r["error"]["message"]
              and r["error"]["param"] == "tools", r)


CLOCK = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 50}}, "required": ["n"]}
TWO = [TOOLS[0], {"type": "function", "function": {"name": "get_time", "strict": True, "parameters": CLOCK}}]


def calls_of(r, most=99):
    """The names that were called, each with arguments that may be; an answer in text has none."""
    names = []
    for call in r["choices"][0]["message"].get("tool_calls", []):
        f = call["function"]
        names.append(f["name"])
        a = json.loads(f["arguments"])
        check("only the tools there are", f["name"] in ("get_weather", "get_time") and isinstance(a, dict), r)
        cut = r["choices"][0]["finish_reason"] == "length"
        check("strict arguments", cut or f["name"] != "get_time" or (list(a) == ["n"] and 1 <= a["n"] <= 50), r)
    check("not more calls than asked for", len(names) <= most, r)
    return names


def must_call(s):
    """What must be called is called, by one of its names; with a format, the answer is a call or of the format."""
    fmt = {"type": "json_schema", "json_schema": {"name": "p", "schema": CLOCK}}
    quick = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": 3, "max_tokens": 60}
    called, told = set(), 0
    for seed in range(4):
        for more in ({}, {"response_format": fmt}):
            status, r = s.ask("/v1/chat/completions", chat("Weather?", tools=TWO, tool_choice="required", seed=seed,
                                                           parallel_tool_calls=False, **{**quick, **more}))
            names = calls_of(r, 1)
            check("required is a call", status == 200 and (len(names) == 1 or r["choices"][0]["finish_reason"] == "length"), r)
            called.update(names)
    check("either tool is called", called == {"get_weather", "get_time"}, called)
    called = 0
    for seed in range(10):
        body = chat("Weather?", tools=TWO, response_format=fmt, seed=seed, **{**quick, "temperature": 30})
        status, r = s.ask("/v1/chat/completions", body)
        names, text = calls_of(r), r["choices"][0]["message"]["content"]
        called += bool(names)
        if r["choices"][0]["finish_reason"] == "stop":
            told += 1
            check("no call, so of the format", not names and 1 <= json.loads(text)["n"] <= 50, r)
        else:
            check("a call and no text", r["choices"][0]["finish_reason"] == "length" or (names and not text), r)
    check("both were seen", called and told, (called, told))
    chunks, ended = events(s.raw("POST", "/v1/chat/completions", {**body, "stream": True})[1])
    check("the same in a stream", ended and joined(chunks, "content") == (text or ""), (chunks[-2:], text))


def thoughts_first(s):
    """A schema holds from </think> on: thoughts are free, and a model that ends its text among them answers still."""
    fmt = {"type": "json_schema", "json_schema": {"name": "p", "schema": CLOCK}}
    answered = 0
    for seed in range(30):
        status, r = s.ask("/v1/chat/completions", chat("Hm?", response_format=fmt, seed=seed, temperature=8, max_tokens=120,
                                                       chat_template_kwargs={"enable_thinking": True}))
        message, end = r["choices"][0]["message"], r["choices"][0]["finish_reason"]
        check("thoughts are free", status == 200 and message["reasoning_content"].strip()[:1] != "{", r)
        if end == "stop":
            answered += 1
            check("then the schema holds", list(json.loads(message["content"])) == ["n"], r)
        if answered == 2:
            break
    check("there were answers after thoughts", answered == 2, answered)


PERSON = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
                                           "age": {"type": "integer", "minimum": 1, "maximum": 99}},
          "required": ["name", "age"], "additionalProperties": False}


def is_person(text):
    """What the schema says, said again by hand."""
    value = json.loads(text)
    return (list(value) == ["name", "age"] and re.fullmatch("[A-Z][a-z]{1,8}", value["name"]) is not None
            and type(value["age"]) is int and 1 <= value["age"] <= 99)


def schemas(s):
    """Answers of a JSON schema: in chats, streams and completions, beside answers that are free."""
    off = {"enable_thinking": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    free = chat("Who?", chat_template_kwargs=off)
    alone = s.ask("/v1/chat/completions", free)[1]["choices"][0]["message"]["content"]
    asked = [chat("Who?", chat_template_kwargs=off, response_format=form, max_tokens=200, seed=i) for i in range(3)]
    got = [None] * 4

    def one(i):
        got[i] = s.ask("/v1/chat/completions", asked[i] if i < 3 else free)[1]["choices"][0]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for c in got[:3]:
        check("an answer of a schema", is_person(c["message"]["content"]) and c["finish_reason"] == "stop", c)
    check("another's schema does not show", got[3]["message"]["content"] == alone, (got[3], alone))
    chunks, ended = events(s.raw("POST", "/v1/chat/completions", {**asked[0], "stream": True, "logprobs": True})[1])
    check("a stream of a schema", ended and joined(chunks, "content") == got[0]["message"]["content"], chunks)
    check("its place is free again",
          s.ask("/v1/chat/completions", free)[1]["choices"][0]["message"]["content"] == alone)
    status, r = s.ask("/v1/completions", {"prompt": ["Call me", "She was"], "max_tokens": 200, "seed": 1,
                                          "response_format": form, "logprobs": 1})
    check("completions of a schema", status == 200 and all(is_person(c["text"]) for c in r["choices"]), r)
    word = {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes", "no"]}}}
    status, r = s.ask("/v1/chat/completions", chat("Is it?", chat_template_kwargs=off, response_format=word))
    check("one of two", json.loads(r["choices"][0]["message"]["content"]) in ("yes", "no"), r)
    status, r = s.ask("/v1/chat/completions", chat("Is it?", chat_template_kwargs=off, max_tokens=300, temperature=0.3,
                                                   response_format={"type": "json_object"}))
    c = r["choices"][0]
    check("an object", c["message"]["content"].startswith("{") and (
        c["finish_reason"] == "length" or isinstance(json.loads(c["message"]["content"]), dict)), r)
    status, r = s.ask("/v1/chat/completions", chat("Is it?", response_format=word))
    check("thoughts are free", status == 200 and r["choices"][0]["message"].get("reasoning_content"), r)
    for i in range(12):  # more than are kept
        size = {"type": "json_schema", "json_schema": {"schema": {"const": "x" * i}}}
        r = s.ask("/v1/chat/completions", chat("Is it?", chat_template_kwargs=off, response_format=size, max_tokens=40))[1]
        check("many schemas", r["choices"][0]["message"]["content"] == json.dumps("x" * i), r)


def injection(s):
    """A text that spells a special token has the ids of its letters."""
    special = "<|im_end|>"
    letters = len(s.ask("/tokenize", {"content": special})[1]["tokens"])
    check("the word is a token", len(s.ask("/tokenize", {"content": special, "parse_special": True})[1]["tokens"]) == 1)

    def prompt_tokens(**body):
        return s.ask("/v1/chat/completions", {"max_tokens": 0, **body})[1]["usage"]["prompt_tokens"]

    one = prompt_tokens(messages=[{"role": "user", "content": "x"}])
    many = prompt_tokens(messages=[{"role": "user", "content": "x" + special}])
    check("no special token from a message", many - one == letters, (one, many, letters))
    tool = lambda text: [{"type": "function", "function": {"name": "f", "description": text}}]
    ask = [{"role": "user", "content": "x"}]
    check("nor from a tool", prompt_tokens(messages=ask, tools=tool("a" + special))
          - prompt_tokens(messages=ask, tools=tool("a")) >= letters - 2)
    status, r = s.ask("/v1/completions", {"prompt": special, "max_tokens": 1})
    check("nor from a prompt", r["usage"]["prompt_tokens"] == letters, r)


MALFORMED = [
    ("/v1/chat/completions", b"", "body"),
    ("/v1/chat/completions", b"{", "body"),
    ("/v1/chat/completions", b"[]", "object"),
    ("/v1/chat/completions", b"null", "body"),
    ("/v1/chat/completions", b'{"messages":[]} x', "body"),
    ("/v1/chat/completions", b'{"messages":[],"messages":[]}', "body"),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "body"),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"\\u0000"}]}', "body"),
    ("/v1/chat/completions", b'{"messages":' + b"[" * 100000, "body"),
    ("/v1/chat/completions", b'{"a":' * 5000 + b"1" + b"}" * 5000, "body"),
    ("/v1/chat/completions", {}, "messages"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": "hello"}, "messages"),
    ("/v1/chat/completions", {"messages": [1]}, "role"),
    ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "role"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "content"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "images"),
    ("/v1/chat/completions", {"messages": [{"role": "system", "content": "x"}]}, "user"),
    ("/v1/chat/completions", chat("x", n=2), "\"n\""),
    ("/v1/chat/completions", chat("x", n=0), "\"n\""),
    ("/v1/chat/completions", chat("x", temperature="hot"), "temperature"),
    ("/v1/chat/completions", chat("x", temperature=-1), "temperature"),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}', "body"),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', "body"),
    ("/v1/chat/completions", chat("x", top_p=2), "top_p"),
    ("/v1/chat/completions", chat("x", top_k=1.5), "top_k"),
    ("/v1/chat/completions", chat("x", seed="7"), "seed"),
    ("/v1/chat/completions", chat("x", max_tokens=-7), "max_tokens"),
    ("/v1/chat/completions", chat("x", max_tokens=10**30), "body"),
    ("/v1/chat/completions", chat("x", stop=[1]), "stop"),
    ("/v1/chat/completions", chat("x", stop=["a"] * 17), "stop"),
    ("/v1/chat/completions", chat("x", stop="a" * 1000), "stop"),
    ("/v1/chat/completions", chat("x", stream="yes"), "stream"),
    ("/v1/chat/completions", chat("x", top_logprobs=3), "top_logprobs"),
    ("/v1/chat/completions", chat("x", logprobs=True, top_logprobs=21), "top_logprobs"),
    ("/v1/chat/completions", chat("x", logit_bias={"5": 1}), "logit_bias"),
    ("/v1/chat/completions", chat("x", tools=[{"type": "retrieval"}]), "function"),
    ("/v1/chat/completions", chat("x", tools=[{"type": "function", "function": {"name": "a<b"}}]), "name"),
    ("/v1/chat/completions", chat("x", tool_choice="required"), "tool_choice"),
    ("/v1/chat/completions", chat("x", tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    ("/v1/chat/completions", chat("x", response_format={"type": "xml"}), "response_format"),
    ("/v1/chat/completions", chat("x", response_format={"type": "json_schema"}), "schema"),
    ("/v1/chat/completions", chat("x", response_format={"type": "json_schema", "json_schema": {"schema": {"not": {}}}}),
     "keyword"),
    ("/v1/chat/completions", chat("x", response_format={"type": "json_schema", "json_schema": {
        "schema": {"type": "string", "pattern": "((((((a{9999}){9999}){9999})))"}}}), "this constraint needs more than"),
    ("/v1/chat/completions", chat("x", response_format={"type": "json_schema", "json_schema": {
        "schema": {"type": "array", "minItems": 5, "maxItems": 4}}}), "schema"),
    ("/v1/chat/completions", chat("x", response_format={"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
                                  tools=TOOLS), '"not"'),
    ("/v1/completions", {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {
        "schema": {"type": "integer", "multipleOf": 3}}}}, "multipleOf"),
    ("/v1/chat/completions", chat("x", chat_template_kwargs=[]), "chat_template_kwargs"),
    ("/v1/chat/completions", chat("word " * 5000), "context"),
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": ""}, "empty"),
    ("/v1/completions", {"prompt": []}, "empty"),
    ("/v1/completions", {"prompt": [[1, 2], [99999999]]}, "token id"),
    ("/v1/completions", {"prompt": [-1]}, "token id"),
    ("/v1/completions", {"prompt": [1, "a"]}, "token id"),
    ("/v1/completions", {"prompt": ["a"] * 65}, "limit"),
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of"),
    ("/tokenize", {"content": 5}, "content"),
    ("/detokenize", {"tokens": ["a"]}, "tokens"),
]


def hostile(s):
    for path, body, word in MALFORMED:
        status, text, _ = s.raw("POST", path, body)
        shown = (path, str(body)[:80], status, text[:300])
        try:
            error = json.loads(text)["error"]
            check("a refusal names what is wrong", status == 400 and word in error["message"] + str(error["param"]), shown)
            check("a refusal is of its type", error["type"] == "invalid_request_error", shown)
        except (ValueError, KeyError, TypeError):
            check("a refusal is an error object", False, shown)
    for method, path, status in (("GET", "/etc/passwd", 404), ("GET", "/../../etc/passwd", 404), ("GET", "/%2e%2e/x", 404),
                                 ("DELETE", "/v1/models", 405), ("GET", "/v1/chat/completions", 405),
                                 ("POST", "/v1/embeddings", 404), ("OPTIONS", "/v1/models", 405)):
        seen = s.raw(method, path, b"{}" if method == "POST" else None)
        check(f"{method} {path}", seen[0] == status and b'"error"' in seen[1], seen)
    seen = s.raw("POST", "/v1/completions", b"x", {"Content-Length": "99999999999"})
    check("a body that is too large is refused before it is sent", seen[0] == 413, seen)
    seen = s.raw("GET", "/health", headers={"Host": "evil.example"})
    check("a name that is not ours", seen[0] == 403, seen)
    seen = s.raw("POST", "/v1/completions", b"{}", {"Origin": "https://evil.example"})
    check("a page of another origin", seen[0] == 403 and "Access-Control-Allow-Origin" not in seen[2], seen)
    for raw in (b"\x16\x03\x01\x02\x00\x01", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"NONSENSE\r\n\r\n",
                b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
        with socket.create_connection(("127.0.0.1", s.port), 50) as c:
            try:
                c.sendall(raw)
                c.shutdown(socket.SHUT_WR)
                got = c.recv(100)
                check("broken HTTP is refused or cut", not got or got[9:10] == b"4", (raw[:40], got))
            except TimeoutError:
                check("who has hung up is let go of before the time limit", False, raw[:40])
            except OSError:
                pass
    check("and it still answers", s.ask("/v1/completions", {"prompt": "A", "max_tokens": 2})[0] == 200)


def leaving(s):
    """Clients that go away, while a prompt is read and while tokens come, free their slot."""
    before = s.metric("answers_cancelled_total")
    for prompt in ("word " * 90, "Once"):
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        c.request("POST", "/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 400, "stream": prompt == "Once",
                                                         "stop": []}))
        if prompt == "Once":
            c.getresponse().read(10)
        else:
            time.sleep(0.1)
        c.sock.close() if c.sock else None
        c.close()
    deadline = time.time() + 60
    while s.metric("requests_processing") + s.metric("requests_deferred") and time.time() < deadline:
        time.sleep(0.1)
    check("slots of clients that left are free", s.metric("requests_processing") == 0)
    check("they were counted", s.metric("answers_cancelled_total") > before, s.metric("answers_cancelled_total"))


def together(s):
    """The same text alone and in a batch."""
    bodies = [{"prompt": p * k, "max_tokens": 10 + k, "seed": k, "temperature": 1.0, "logprobs": 3}
              for k, p in enumerate(("The sea ", "A man ", "It was the ", "She said "), 1)]
    get = lambda b: s.ask("/v1/completions", b)[1]["choices"]
    alone = [get(b) for b in bodies]
    found = [None] * len(bodies)

    def one(i):
        found[i] = get(bodies[i])

    steps, rows = s.metric("decode_steps_total"), s.metric("decode_rows_total")
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(bodies))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check("the same text alone and in a batch, to the last digit of its logprobs", found == alone, (alone, found))
    steps, rows = s.metric("decode_steps_total") - steps, s.metric("decode_rows_total") - rows
    check("each has been timed", s.metric("time_to_first_token_seconds_count") > 4
          and s.metric("inter_token_seconds_count") > s.metric("time_to_first_token_seconds_count")
          and s.metric("answer_tokens_per_second_sum") > 0)
    check("several share a step", rows > steps, (steps, rows))


def known(s):
    """What is sent again is not read again, and does not show."""
    def get(messages):
        body = {"messages": messages, "max_tokens": 10, "seed": 4, "temperature": 1.0, "logprobs": True,
                "chat_template_kwargs": {"enable_thinking": False}}
        r = s.ask("/v1/chat/completions", body)[1]
        return r["usage"]["prompt_tokens_details"]["cached_tokens"], r["choices"][0]

    talk = [{"role": "user", "content": "The old man looked at the sea. " * 12}]
    cached, first = get(talk)
    again, same = get(talk)
    check("a prompt sent twice is known", cached == 0 and again >= 64 and again % 64 == 0, (cached, again))
    check("its answer is the same", same == first, (same, first))
    talk += [{"role": "assistant", "content": first["message"]["content"]}, {"role": "user", "content": "And then? " * 9}]
    longer, second = get(talk)
    check("a conversation goes on from there", longer >= again, (longer, again))
    for k in range(8):  # every slot forgets
        s.ask("/v1/completions", {"prompt": f"{k} other words " * 12, "max_tokens": 1})
    cached, fresh = get(talk)
    check("an answer from the beginning is the same", cached == 0 and fresh == second, (cached, fresh, second))


def ten_turns(s):
    """A turn reads what is new and less than 64 tokens more, wherever prompts end on the grid of positions."""
    options = {"chat_template_kwargs": {"enable_thinking": False}}

    def tokens(messages):
        r = s.ask("/apply-template", {"messages": messages, **options})[1]["prompt"]
        return s.ask("/tokenize", {"content": r, "parse_special": True})[1]["tokens"]

    talk, before = [], []
    for turn in range(10):
        text = "Tell me more, Captain."
        while len(tokens(talk + [{"role": "user", "content": text}])) % 64 != turn % 6 + 1:
            text += " and"
        talk.append({"role": "user", "content": text})
        now = tokens(talk)
        usage = s.ask("/v1/chat/completions", {"messages": talk, "max_tokens": 9, "temperature": 0, **options})[1]
        answer, usage = usage["choices"][0]["message"]["content"], usage["usage"]
        same = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), min(len(before), len(now)))
        read = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        check(f"turn {turn}: what is new, and less than 64 more", read <= len(now) - same + 64 and
              usage["prompt_tokens"] == len(now), (turn, read, len(now), same))
        talk.append({"role": "assistant", "content": answer})
        before = now


def pages(s):
    status, text, headers = s.raw("GET", "/")
    check("a page", status == 200 and b"<title>hlwq-stream" in text and "script-src" in headers["Content-Security-Policy"])
    check("a page that needs nothing else", not re.search(rb'(src|href)="(?!data:)', text))
    check("health", json.loads(s.raw("GET", "/health")[1]) == {"status": "ok"})
    check("models", json.loads(s.raw("GET", "/v1/models")[1])["data"][0]["id"] == "demo-q5")
    check("props", json.loads(s.raw("GET", "/props")[1])["n_ctx"] == 1024)
    metrics = s.raw("GET", "/metrics")[1].decode()
    for name in ("time_to_first_token_seconds", "inter_token_seconds", "answer_tokens_per_second"):
        rows = re.findall(rf'^hlwq_{name}_bucket\{{le="([^"]+)"\}} (\d+)$', metrics, re.M)
        counts = [int(n) for _, n in rows]
        check("a histogram rises to its count", len(rows) > 9 and rows[-1][0] == "+Inf" and counts == sorted(counts)
              and counts[-1] == s.metric(name + "_count"), rows)
    check("metrics have a type each", all(line.startswith("#") or re.match(r"^hlwq_\w+(\{[^}]*\})? [-+.e\d]+$", line)
                                          for line in metrics.strip().split("\n")), metrics)


def guarded():
    s = Server("--parallel", "1", "--queue", "1", "--max-body", "2K", "--timeout", "2", "--cors", "https://page.example",
               env={"HLWQ_API_KEY": "secret"})
    key = {"Authorization": "Bearer secret"}
    check("health needs no key", s.raw("GET", "/health")[0] == 200)
    check("models do", s.raw("GET", "/v1/models")[0] == 401)
    check("not that one", s.raw("GET", "/v1/models", headers={"Authorization": "Bearer secrets"})[0] == 401)
    check("this one", s.raw("GET", "/v1/models", headers=key)[0] == 200)
    check("a body over the limit", s.raw("POST", "/v1/completions", b"x" * 3000, key)[0] == 413)
    seen = s.raw("OPTIONS", "/v1/models", headers={"Origin": "https://page.example"})
    check("a preflight", seen[0] == 204 and seen[2]["Access-Control-Allow-Origin"] == "https://page.example", seen)
    start = time.time()
    with socket.create_connection(("127.0.0.1", s.port), 60) as c:  # a byte now and then
        try:
            for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 200:
                c.sendall(bytes([byte]))
                time.sleep(0.2)
        except OSError:
            pass
    check("a client that trickles is cut", time.time() - start < 20, time.time() - start)
    seen = []
    crowd = [threading.Thread(target=lambda: seen.append(s.raw("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 60},
                                                               key))) for _ in range(16)]
    for t in crowd:
        t.start()
    for t in crowd:
        t.join()
    refused = [r for r in seen if r[0] == 429]
    check("a full queue says so", refused and refused[0][2]["Retry-After"] and len(seen) == 16, [r[0] for r in seen])
    check("and serves the others", {r[0] for r in seen} == {200, 429}, [r[0] for r in seen])
    check("SIGTERM with nothing to do", s.stop() == 0, s.said)


def drafting(expected):
    """Drafts change no answer; alone a text drafts, and the metrics say so."""
    s = Server("--draft", "auto", "--draft-always")
    got = s.ask("/v1/completions", DRAFTED)[1]["choices"][0]["text"]
    check("an answer with drafts is the same", got == expected, (got, expected))
    drafted, until = 0, time.time() + 10  # what /metrics shows may be a quarter of a second old
    while not drafted and time.time() < until:
        drafted, right, wrong = (s.metric(f"draft{k}_total") for k in ("ed_tokens", "_tokens_accepted", "_tokens_rejected"))
    check("drafts are counted", drafted > 0 and right + wrong == drafted, (drafted, right, wrong))
    together(s)
    ending(s)


def ending(s):
    """What is under way is finished."""
    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=120)
    c.request("POST", "/v1/completions", json.dumps({"prompt": "Once", "max_tokens": 20, "stream": True}))
    r = c.getresponse()
    first = r.read(6)
    s.process.send_signal(signal.SIGTERM)
    chunks, ended = events(first + r.read())
    check("an answer under way is finished", ended and chunks[-1]["choices"][0]["finish_reason"], chunks[-1:])
    check("then the server ends", s.process.wait(60) == 0, s.said)


DRAFTED = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}
server = Server()
without = server.ask("/v1/completions", DRAFTED)[1]["choices"][0]["text"]
check("no drafts without --draft", server.metric("drafted_tokens_total") == 0)
for part in (pages, answers, known, ten_turns, tools, strict_tools, must_call, thoughts_first, schemas, injection, hostile, leaving, together, ending):
    start = time.time()
    part(server)
    print(f"{part.__name__}: {time.time() - start:.1f} s", flush=True)
guarded()
drafting(without)
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
