#!/usr/bin/env python3
"""Writes cases.json: what Jinja2, set up as transformers does it, makes of the snippets.

    python3 make_jinja.py                 writes cases.json
    python3 make_jinja.py --check PROGRAM  compares Jinja2, cases.json and the program; then random expressions
"""
import datetime, json, os, random, subprocess, sys, tempfile

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snippets import CONTEXT, EXPRESSIONS, TEMPLATES

HERE = os.path.dirname(os.path.abspath(__file__))


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Dict:
        def __call__(self, *args, **kwargs):
            return dict(*args, **kwargs)

    class Namespace(jinja2.utils.Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            attrs = dict(*args, **kwargs)
            for name in attrs:
                Namespace._check(name)
            jinja2.utils.Namespace.__init__(self, attrs)

        def __setitem__(self, name, value):
            Namespace._check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name):
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError("underscore")

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    del env.globals["lipsum"], env.globals["cycler"], env.globals["joiner"]
    return env


ENV = environment()


def answer(template, context):
    """{"expected": text} or {"error": sentence}"""
    try:
        text = ENV.from_string(template).render(**context)
        text.encode()
        return {"expected": text}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


def templates():
    return ["{{ " + line + " }}" for line in EXPRESSIONS.strip("\n").split("\n")] + TEMPLATES


def run(program, template, context):
    with tempfile.NamedTemporaryFile("w", suffix=".jinja", newline="") as f:
        f.write(template)
        f.flush()
        p = subprocess.run([program, "template", "--template", f.name], input=json.dumps(context).encode(),
                           capture_output=True)
    if p.returncode in (1, 2):
        return {"error": p.stderr.decode()}
    if p.returncode:
        sys.exit(f"{template!r}: exit {p.returncode}: {p.stderr.decode()}")
    return {"expected": p.stdout.decode()}


def random_expression(r, depth=0):
    """Mostly of fitting types; errors are compared too."""
    atoms = ["n", "x", "s", "l", "d", "words", "t", "none_", "undef", "1", "-2", "0", "2.5", "'a'", "'b,c'", "[]", "[2, 'q']",
             "{'k': 1}", "people", "uni", "sp", "(1, 2)", "messages[0]", "d.a.c", "'%s'", "mixed", "html|safe", "range(3)"]
    if depth > 3 or r.random() < 0.2:
        return r.choice(atoms)
    e = lambda: random_expression(r, depth + 1)
    filters = ["upper", "length", "list", "first", "last", "string", "trim", "sort", "join('-')", "tojson", "int", "float", "abs",
               "default('z')", "default('z', true)", "reverse", "unique|list", "map('string')|list", "select|list",
               "reject('none')|list", "round(1)", "e", "title", "capitalize", "replace('a', 'bb')", "sum", "min", "max",
               "items|list", "dictsort", "batch(2)|list", "indent(2, true)", "wordcount", "tojson(indent=1)", "safe"]
    tests = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "boolean",
             "true", "odd", "even", "in [1, 'a']", "eq 1", "float", "callable", "lower", "escaped"]
    methods = ["upper()", "strip()", "split(',')", "split()", "title()", "get('k')", "items()|list", "keys()|list", "startswith('a')",
               "count('a')", "find('a')", "replace('a', '-')", "index(1)", "k", "name", "splitlines()", "isdigit()"]
    kind = r.randrange(12)
    if kind < 3:
        op = r.choice(["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", "and", "or", "in", "not in"])
        return f"({e()} {op} {e()})"
    if kind < 6:
        return f"({e()}|{r.choice(filters)})"
    if kind == 6:
        return f"({e()} is {r.choice(['', 'not '])}{r.choice(tests)})"
    if kind == 7:
        return f"({e()}).{r.choice(methods)}"
    if kind == 8:
        return f"({e()} if {e()} else {e()})"
    if kind == 9:
        bound = lambda: r.choice(["", "", "0", "1", "2", "-1", "5"])
        return f"({e()})[{bound()}:{bound()}{r.choice(['', ':', ':2', ':-1'])}]"
    if kind == 10:
        return r.choice([f"[{e()}, {e()}]", f"({e()}, {e()})", f"{{'k': {e()}, 'm': {e()}}}", f"(not {e()})", f"(-{e()})"])
    return f"({e()})[{r.choice(['0', '-1', repr('k'), 'n', repr('name')])}]"


def opaque(text):
    """Prints an address or a type that has none here."""
    return any(w in text for w in ("<generator", "<built-in", "<function", "<bound", "object at 0x", "<list_reverse", "<reversed",
                                   "<dict_rev", "<range_it", "<method", "<map", "<class", "<Macro", "<Loop"))


def check(program, count, seed):
    bad = 0
    stored = {c["template"]: c for c in json.load(open(os.path.join(HERE, "cases.json")))["cases"]}
    context = dict(CONTEXT)
    full = {"tools": None, "documents": None, "add_generation_prompt": False, **context}
    for template in templates():
        wanted = answer(template, full)
        if {k: v for k, v in stored.get(template, {}).items() if k != "template"} != wanted:
            print(f"cases.json is not up to date: {template!r}", file=sys.stderr)
            bad += 1
    r = random.Random(seed)
    for i in range(count):
        template = "{{ " + random_expression(r) + " }}"
        wanted = answer(template, full)
        if opaque(wanted.get("expected", "")) or "e+3" in wanted.get("expected", ""):
            continue
        got = run(program, template, context)
        if any(w in got.get("error", "") for w in ("not subscriptable", "type: 'slice'")):
            continue  # Jinja2 fails too, or not, depending on what it computed beforehand
        if ("error" in got) != ("error" in wanted) or got.get("expected") != wanted.get("expected"):
            print(f"{template}\n  jinja2: {wanted}\n  here:   {got}", file=sys.stderr)
            bad += 1
    print(f"{len(stored)} stored cases, {count} random expressions, {bad} differences")
    return bad != 0


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--check":
        sys.exit(check(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 200, int(sys.argv[4]) if len(sys.argv) > 4 else 1))
    full = {"tools": None, "documents": None, "add_generation_prompt": False, **CONTEXT}
    cases = [{"template": t, **answer(t, full)} for t in templates()]
    with open(os.path.join(HERE, "cases.json"), "w") as f:
        f.write('{"context": ' + json.dumps(full) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c) for c in cases))
        f.write("\n]}\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")
