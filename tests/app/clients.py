# What scripts/clients asks through Python packages: python3 clients.py openai|litellm BASE_URL
# and what lm-eval found, against the server's own numbers: clients.py lm-eval BASE_URL ROWS.jsonl OUTPUT_DIR
import glob
import json
import math
import sys
import urllib.request

what, base = sys.argv[1:3]
ASK = dict(messages=[{"role": "user", "content": "Who goes there?"}], seed=3, max_tokens=16)
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                           "age": {"type": "integer", "minimum": 1, "maximum": 99}},
          "required": ["name", "age"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]


def through_openai():
    import openai
    client = openai.OpenAI(base_url=base, api_key="none")
    chat = lambda **more: client.chat.completions.create(model="demo", **{**ASK, **more})

    assert client.models.list().data[0].id == "demo"
    whole = chat()
    message = whole.choices[0].message
    assert whole.usage.completion_tokens == 16 and whole.choices[0].finish_reason == "length", whole
    content, reasoning, usage = "", "", None
    for chunk in chat(stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for c in chunk.choices:
            content += c.delta.content or ""
            reasoning += getattr(c.delta, "reasoning_content", None) or ""
    assert content == (message.content or ""), (content, message)
    assert reasoning == (getattr(message, "reasoning_content", None) or ""), (reasoning, message)
    assert usage.total_tokens == whole.usage.total_tokens, usage
    print("openai: chat and stream pass")

    lp = chat(logprobs=True, top_logprobs=4).choices[0].logprobs.content
    assert len(lp) == 16 and len(lp[0].top_logprobs) == 4 and all(x.logprob <= 0 for x in lp), lp
    print("openai: logprobs pass")

    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    for seed in range(3):
        r = chat(response_format=form, seed=seed, max_tokens=200, extra_body=OFF)
        person = json.loads(r.choices[0].message.content)
        assert list(person) == ["name", "age"] and len(person["name"]) <= 12 and 1 <= person["age"] <= 99, person
    try:
        chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}})
        raise SystemExit("FAILED: a schema with \"not\" was taken")
    except openai.BadRequestError as e:
        assert e.param == "response_format" and '"not"' in e.message, e
    print("openai: json_schema passes")

    named = {"type": "function", "function": {"name": "get_weather"}}
    ask = dict(tools=TOOLS, tool_choice=named, max_tokens=40)
    called = chat(**ask)
    call = called.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather" and isinstance(json.loads(call.function.arguments), dict), called
    name, arguments = "", ""
    for chunk in chat(**ask, stream=True):
        for c in chunk.choices:
            for t in (c.delta.tool_calls or [])[:1]:
                if t.index == 0:
                    name += t.function.name or ""
                    arguments += t.function.arguments or ""
    assert name == "get_weather" and json.loads(arguments) == json.loads(call.function.arguments), (name, arguments, call)
    print("openai: tools pass")

    text = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=4, echo=True, logprobs=1,
                                     temperature=0).choices[0]
    assert text.text.startswith("Once upon a time") and text.logprobs.token_logprobs[0] is None, text
    try:
        chat(n=2)
        raise SystemExit("FAILED: n=2 was taken")
    except openai.BadRequestError as e:
        assert e.param == "n" and "must be 1" in e.message, e
    print("openai: completions and errors pass")


def through_litellm():
    import litellm
    ask = dict(model="openai/demo", api_base=base, api_key="none", **ASK)
    answer = litellm.completion(**ask).choices[0].message.content or ""
    pieces = litellm.completion(**ask, stream=True)
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert streamed == answer, (answer, streamed)
    print("litellm passes")


def post(address, body):
    r = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(r).read())


def of_lm_eval(rows, out):
    root = base.removesuffix("/v1")
    end = json.loads(urllib.request.urlopen(root + "/tokenizer_info").read())["eos_token"]
    start = post(root + "/tokenize", {"prompt": end})["tokens"]
    assert len(start) == 1, start
    total, words = 0.0, 0
    for line in open(rows):
        text = json.loads(line)["text"]
        ids = start + post(root + "/tokenize", {"content": text})["tokens"]
        lp = post(base + "/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1})
        total += sum(lp["choices"][0]["logprobs"]["token_logprobs"][1:])
        words += len(text.split())
    mine = math.exp(-total / words)
    results = json.load(open(glob.glob(out + "/**/results_*.json", recursive=True)[0]))["results"]
    found = results["hlwq_words"]["word_perplexity,none"]
    assert abs(found / mine - 1) < 1e-4, (found, mine)
    assert results["hlwq_pick"]["acc,none"] == 1.0, results
    print(f"lm-eval: word perplexity {found:.2f}, the server's own logprobs say {mine:.2f}; all likely words picked")


if what == "openai":
    through_openai()
elif what == "litellm":
    through_litellm()
else:
    of_lm_eval(*sys.argv[3:5])
