"""Snippets of templates, one case each; make_jinja.py says what Jinja2 makes of them."""

CONTEXT = {
    "t": True, "f": False, "none_": None, "zero": 0, "n": 7, "x": 2.5, "big": 1e16, "tiny": 1e-7,
    "s": "Hello, World", "empty": "", "sp": " \t two  words \n", "uni": "na\u00efve \u00df \u4f60\u597d \U0001f600 \u01c6",
    "quote": "it's \"q\" \\ \n\t\x07\u2028", "html": "<a href='x'>&\"</a>", "lines": "one\n\ntwo\r\nthree",
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "mixed": [1, "a", None, True, 2.0, [1, {"k": "v"}]],
    "d": {"b": 1, "a": {"c": [1, 2]}, "Z": None, "items": "own"}, "ed": {}, "el": [],
    "people": [{"name": "Bo", "age": 31, "tags": ["x"]}, {"name": "al", "age": 29, "tags": []},
               {"name": "Cy", "age": 31}],
    "num": [0, -7, 7, 2.5, -2.5, 1e22, 123456789012345680.0, 0.1, 100000.0, 1e-5, 0.0001],
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},
                 {"role": "assistant", "content": "A", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}],
}

# Each line is an expression, printed by {{ }}.
EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
7 // 2, -7 // 2, 7 // -2, 7 % 3, -7 % 3, 7 % -3
7 / 2, 6 / 3, 1 / 3
7.5 // 2, -7.5 // 2, 7.5 % 2, -7.5 % 2
2 ** 10, 2 ** -1, 2.0 ** 0.5, 2 ** 3 ** 2
-2 ** 2
-n, +n, - -n, -x
1 - -1
1_000 + 0x1f + 0b101 + 0o17
1e3, 1.5e-7, 1e22, 1e16, 1e15, 123456789.123
0.1 + 0.2, 1.0, 100000.0, -0.0, 1e-5
n / 0
n // 0
n % 0
1.5 / 0
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1] ~ undef
'a' + 'b' 'c'
'a' + 1
1 + 'a'
[1] + [2], (1,) + (2,)
[1] + (2,)
'ab' * 3, 3 * 'ab', [1] * 2, 'ab' * -1, 'ab' * 0
true + true, true * 3, true == 1, 1 == 1.0, '1' == 1
1 < 2 < 3, 1 < 2 > 3, 3 > 2 > 1
1 < 'a'
[1, 2] < [1, 3], [1] < [1, 0], (1, 2) < (2,), 'a' < 'b', 'B' < 'a'
[1] < 'a'
none == none, none != 1, undef == undef2, undef == none
not true, not none, not '', not [], not 'x'
not 1 == 2
true and 'x', '' and 'x', none or 'y', 0 or false, 1 and 2 and 3
'x' if true else 'y'
'x' if false
('x' if false) is undefined
('x' if false else 'y' if false else 'z')
1 in [1, 2], 3 in [1, 2], 3 not in [1, 2], 'a' in 'abc', '' in 'abc', 'b' in d, 'q' not in d
1 in 'abc'
1 in 5
'x' in undef
[1] in [[1]], 1.0 in [1], true in [1]
not 1 in [1]
1 is defined, undef is defined, undef is undefined, undef is not defined, none_ is defined
none_ is none, n is none, n is not none
s is string, l is string, d is mapping, l is mapping, l is sequence, d is sequence, s is sequence, n is sequence
s is iterable, l is iterable, d is iterable, n is iterable, undef is iterable, none_ is iterable
n is number, x is number, t is number, s is number, n is integer, t is integer, x is integer, x is float, n is float
t is true, f is false, n is true, t is boolean, n is boolean, 1 is true
7 is odd, 8 is even, 9 is divisibleby 3, 9 is divisibleby(2), -1 is odd, 2.0 is even
1 is eq 1, 1 is equalto 2, 1 is ne 2, 1 is lt 2, 2 is ge 2, 1 is gt(0), 3 is in [1, 3], 'a' is in 'abc'
1 is sameas 1, true is sameas true, 1 is sameas true
'abc' is lower, 'ABC' is upper, 'aB' is lower, '1' is upper
range is callable, s is callable, 'x'|safe is escaped, 'x' is escaped
'upper' is filter, 'nope' is filter, 'odd' is test, 'nope' is test
1 is nosuchtest
s|nosuchfilter
not s is string
s is string and n is number
n is divisibleby 7 or false
[1, 2, 3], (1, 2), (1,), (), [], {}, [[], {}]
{'a': 1, "b": [none, true], 3: 'c', 1.5: (1,)}
{'a': 1, 'a': 2}
{[1]: 2}
{1: 'a', true: 'b', 1.0: 'c'}
mixed
num
d
quote
[quote]
[uni, "\x00\x7f\u00ad\u200b"]
["it's", 'say "x"', 'both \' and "']
'\n\t\\\'\"\x41\u00e9\U0001f600\101\q'
"a" 'b' "c"
l[0], l[-1], l[5], l['x'], l[true]
l[1:], l[:1], l[-2:], l[::-1], l[::2], l[5:], l[-10:10], l[2:0:-1], l[:], l[1:1]
l[::0]
d[1:2]
n[:1]
none_[:1]
false|map('string')|list, 0|select|list, none|selectattr('a')|list
5|map('string')|list
(1, 2, 3)[1:], (1, 2, 3)[-1]
s[0], s[-1], s[1:4], s[::-1], s[::2], s[99], s[99:], s[-5:-1]
uni[0], uni[2], uni[-1], uni[::-1], uni[6:9], uni|length
d.b, d['b'], d.a.c[1], d.a['c'][0], d.Z, d.missing, d['missing']
d.missing.more
d.items is callable, d['items']
undef.x
undef['x']
undef()
none_.x
none_.x.y
n.x
n()
s.nosuch
s.nosuch()
l.0, people.0.name, people[0]['tags'][0]
d.get('b'), d.get('q'), d.get('q', 5), d.get('Z', 5)
d.keys()|list, d.values()|list, ed.items()|list
d.keys(), ed.values(), {'a': 1}.items()
d.a.items()
d.get([1])
l.append(4)
d.update({})
d.pop('b')
d.__class__
d.__class__.__mro__
s.__class__ is defined
''.__class__.__mro__[1].__subclasses__()
l.index(1), l.count(3), (1, 1).count(1)
l.index(9)
l.copy(), d.a.copy()
s.upper(), s.lower(), s.title(), s.capitalize(), s.swapcase(), 'they\'re bill\'s'.title()
uni.upper(), uni.lower(), uni.title(), uni.capitalize()
sp.strip(), sp.lstrip(), sp.rstrip(), 'xxaxx'.strip('x'), 'abcba'.strip('ab'), 'xyz'.lstrip('yx')
'\u2003a\u3000\x1c'.strip()|length, '\u200ba'.strip()|length
s.startswith('Hell'), s.endswith('d'), s.startswith(('x', 'H')), s.startswith('ello', 1), s.startswith('')
s.startswith(1)
s.find('o'), s.rfind('o'), s.find('q'), s.find('o', 5), s.index('W'), s.count('l'), s.count(''), 'aaa'.count('aa')
s.index('q')
uni.find('\u597d'), uni.rfind(' '), uni.index('v')
s.replace('l', 'L'), s.replace('l', 'L', 1), s.replace('', '-'), 'abc'.replace('', '-', 2), s.replace('zz', 'y')
'a,b,,c'.split(','), 'a,b,,c'.split(',', 1), 'a,b,,c'.rsplit(',', 1), ''.split(','), 'abc'.split('abc')
sp.split(), ' a  b c '.split(none, 1), ' a  b c '.rsplit(none, 1), ''.split(), 'x'.split(maxsplit=0)
'x'.split('')
'a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'abc'.partition('-'), 'abc'.rpartition('-')
lines.splitlines(), lines.splitlines(true), ''.splitlines()
'-'.join(['a', 'b']), ''.join([]), ', '.join('abc')
'-'.join([1])
'x'.center(5), 'x'.center(4, '*'), 'xy'.center(5, '*'), 'x'.ljust(3) ~ '|', 'x'.rjust(3, '.'), '-5'.zfill(4), '5'.zfill(3)
'abc'.isalpha(), 'a1'.isalnum(), '12'.isdigit(), ' '.isspace(), ''.isspace(), 'AB'.isupper(), 'ab'.islower(), 'a b'.isalpha()
'prefix-x'.removeprefix('prefix-'), 'x.py'.removesuffix('.py'), 'x'.removeprefix('y')
'%s is %d and %.2f %5s|%-5s|%05d %x %r %%' % ('a', 3, 2.345, 'r', 'l', 42, 255, 'q')
'%s' % 5, '%s' % none, '%(a)s-%(b)03d' % {'a': 1, 'b': 2}, '%s' % [1, 2], '%s' % (1,), '%+d % d' % (1, 2)
'%d' % 'x'
'%s %s' % 1
'%s' % (1, 2)
'%e %g %g %X %o %c' % (12345.678, 0.0001, 1e10, 255, 8, 'x')
'{} {}'.format(1, 'a'), '{0}{1}{0}'.format('x', 'y'), '{a}-{b[0]}-{c.d}'.format(a=1, b=[2], c={'d': 3}), '{{}}'.format()
'{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.2f}|{:,}|{:x}|{!r}'.format('a', 'b', 'c', 'd', 42, 3.14159, 1234567, 255, 'q')
'{} {}'.format(1)
'%s, %s!'|format('Hi', 'you')
s|upper, s|lower, s|title, s|capitalize, 'hello-world (foo) [bar] it\'s'|title, 3|upper, none|upper, undef|upper
sp|trim, 'xxaxx'|trim('x'), 5|trim, undef|trim
s|length, l|length, d|length, s|count, undef|length, ''|length
n|length
none|length
undef|default('d'), none|default('d'), none|default('d', true), ''|d('x'), ''|d('x', true), undef|default, 0|default(5, boolean=true)
l|join, l|join(', '), people|join('-', attribute='name'), [1, none, true, 'a']|join(' '), 'abc'|join('.'), undef|join
l|first, l|last, s|first, s|last, el|first, el|last, d|first
n|first
l|sort, words|sort, words|sort(case_sensitive=true), l|sort(reverse=true), words|sort(true), people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|join(' ')
mixed|sort
l|reverse|list, s|reverse, d|reverse|list, (1, 2)|reverse|list
words|unique|list, [1, 1.0, true, 2]|unique|list, words|unique(case_sensitive=true)|list, people|unique(attribute='age')|map(attribute='name')|list
l|sum, [0.1, 0.2]|sum, people|sum(attribute='age'), el|sum, l|sum(start=10)
l|min, l|max, words|min, words|max(case_sensitive=true), people|min(attribute='age'), el|min
l|map('string')|list, ['a', 'b']|map('upper')|join, people|map(attribute='name')|list, people|map(attribute='tags.0')|list|length
people|map(attribute='tags', default='none')|list, [' a ', 'b']|map('trim')|map('upper')|list, ['1', 'x']|map('int', default=9)|list
l|map('nosuch')|list
l|map|list
people|selectattr('age', 'equalto', 31)|map(attribute='name')|list, people|rejectattr('age', 'gt', 30)|map(attribute='name')|list
people|selectattr('tags')|map(attribute='name')|list, people|selectattr('tags', 'defined')|list|length, people|rejectattr('tags', 'undefined')|list|length
people|selectattr('name', 'in', ['Bo', 'Cy'])|list|length
[1, 2, 3, 4]|select('odd')|list, [1, 2, 3, 4]|reject('odd')|list, [0, 1, '', 'a']|select|list, [0, 1]|reject|list, [1, 2, 3]|select('>', 1)|list
messages|selectattr('role', '==', 'user')|list
(messages|selectattr('role', '==', 'user')|first).content
[1,2,3]|select('nosuch')|list
s|list, d|list, range(3)|list, none|list
undef|list
l|batch(2)|list, [1, 2, 3]|batch(2, 'x')|list, [1, 2, 3, 4, 5]|slice(2)|list, [1, 2, 3]|slice(2, 'x')|list
people|groupby('age')|list|length
s|replace('l', 'L'), s|replace('l', 'L', 2), 5|replace('5', '6'), undef|replace('a', 'b')
'42'|int, '42.7'|int, 'x'|int, 'x'|int(5), 3.9|int, -3.9|int, none|int, true|int, ' 7 '|int, '0x1f'|int(base=16), '101'|int(0, 2), '1_000'|int, '-0'|int
'4.5'|float, 'x'|float, 'x'|float(1.5), 3|float, none|float, 'inf'|float, 'nan'|float, '1e3'|float
undef|int
2.5|round, 3.5|round, 2.675|round(2), 2.5|round(0, 'ceil'), 2.5|round(method='floor'), 7|round, 1234|round(-2), 1250|round(-2), 1350|round(-2), -2.5|round, 1.005|round(2), 2.1|round(1, 'ceil')
-5|abs, 5|abs, -2.5|abs, (-5)|abs, true|abs
's'|abs
s|string, n|string, none|string, [1, 'a']|string, undef|string, 1.0|string
html|e, html|escape, html|safe, html|e|e, html|forceescape, [1, '<']|e, 5|e
(html|safe) + '<b>', '<b>' + html|safe, html|safe ~ '<b>', ('<' ~ html|safe) is escaped
html|e|upper, html|e|length, (html|e)[0], '%s' % html|e
d|items|list, ed|items|list, undef|items|list
s|items|list
l|items|list
d|dictsort, {'b': 1, 'A': 2}|dictsort, {'b': 1, 'A': 2}|dictsort(true), {'b': 1, 'A': 2}|dictsort(false, 'value'), {'b': 1, 'A': 2}|dictsort(reverse=true)
l|dictsort
lines|indent, lines|indent(2, true), lines|indent(2, blank=true), lines|indent(width='> ', first=true), 'x'|indent(3, true), ''|indent, 'a\n'|indent, 'a\n'|indent(2, blank=true), '\n\na'|indent(1, true, true)
s|truncate(5), s|truncate(8, true), s|truncate(8, true, '!', 0), s|truncate(9, false, '...', 0), s|truncate(255), 'a b c d e f g h'|truncate(6, false, '..', 0)
s|wordcount, uni|wordcount, ''|wordcount
s|center(20), 'x'|center(4) ~ '|'
s|attr('upper') is defined, d|attr('b') is defined
mixed|tojson
d|tojson, d|tojson(indent=2), el|tojson(indent=2), ed|tojson(2), [[], {}, [1]]|tojson(indent=4)
d|tojson(indent='--'), d|tojson(indent=0), d|tojson(separators=(',', ':')), d.a|tojson(sort_keys=true), {'b': 1, 'a': 2}|tojson(sort_keys=true)
d|tojson(indent=1, separators=(',', ':'))
uni|tojson, uni|tojson(ensure_ascii=true), quote|tojson, "\x00\x1f\x7f\u2029"|tojson, "\x7f"|tojson(ensure_ascii=true), '/'|tojson
num|tojson, {1: 'a', true: 'b', none: 'c', 1.5: 'd'}|tojson, (1, 2)|tojson
html|tojson, html|safe|tojson
undef|tojson
range(2)|tojson
range|tojson
{(1, 2): 3}|tojson
range(3)|list, range(1, 4)|list, range(0, 10, 3)|list, range(5, 0, -2)|list, range(0)|list, range(3), range(0, 6, 2), range(3)[1], range(10)[2:4]|list
range(100001)|list
range('x')
range(1, 2, 0)
namespace(a=1).a, namespace({'b': 2}).b, namespace().x is defined
namespace(_a=1)
dict(a=1, b=2), dict([('x', 1)]), dict({'a': 1}, b=2)
raise_exception('stop ' ~ n)
lipsum
lipsum()
loop
1 if n is defined and n > 5 else 2
messages[1:]|length, messages[-1].content, messages[-1]['role'], messages|map(attribute='role')|join(',')
messages[0].content if messages[0].role == 'system' else ''
messages|selectattr('tool_calls', 'defined')|list|length > 0
'a' if messages[-1].tool_calls is defined and messages[-1].tool_calls is not none else 'b'
(messages|last).content, (messages|first)['content'], messages|length - 1
messages[2].tool_calls[0].function.arguments|tojson
messages[0]['content'] | trim ~ '!' | upper
'a' ~ 'b' | upper
1 + 2 ~ 3 * 4
[1, 2, 3].0
{'a': {'b': 1}}.a.b
((1))
(((1, 2), 3), [4, (5,)])
'' is none, '' is defined, none is sequence, false is iterable
n == 7 and s == 'Hello, World' or undef.x
(undef or 'fallback') ~ '!'
s.split(', ')[0] + '/' + s.split(', ')[-1]
'</think>' in 'a</think>b' and 'a</think>b'.split('</think>')[-1].lstrip('\n')
'<think>r</think>c'.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
[1, 2,], {'a': 1,}, (1, 2,)
f(1)(2)
s [0], s . upper ( )
1.5.x
3|string|length
'abc'|map('upper')|list|tojson
[[1, 2], [3, 4]]|map('first')|list, [[1, 2], [3, 4]]|map('sum')|list, [3, 1]|map('abs')|list
[1, 2, 3]|map('string')|map('indent', 2, true)|join('|')
[{'a': {'b': [5, 6]}}]|map(attribute='a.b.1')|list
words|map('upper')|unique|sort|list
true|tojson, none|tojson, 1|tojson, 1.0|tojson, 'a'|tojson
-3 % 5, -3.5 % 5, 5 % -3.5, 0 % 5, -6 % 3, -0.0 % 1
9007199254740993 + 0.0, 9007199254740993, 9223372036854775807, -9223372036854775807 - 1
1e308 * 10, -1e308 * 10
1e100, 1.7976931348623157e308, 5e-324, 123456.789e3, 0.1e-6, 12345678901234567.0
x ** 2, n ** 0, 0 ** 0, 0.0 ** 0
10 // 0.3, 1e300 // 1e-10 > 0, 7 // 0.5
undef + 1
undef < 1
-undef
undef * 2
'x' + undef
undef ~ 'x'
[undef]
l + undef
""" + "'\u00e9' == 'e\u0301', '\u00e9'|length, 'e\u0301'|length, '\u00e9'|upper\n"

# Whole templates.
TEMPLATES = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\n  c",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\n  c",
    "a\n  {%+ if true +%}\n  b\n  {%+ endif +%}\n  c",
    "a  {{- ' b ' -}}  c  {{ 'd' }}\n\ne",
    "  {{ 1 }}\n  {{- 2 }}\n",
    "a {# comment #}\nb\n  {# c #}\n  d {#- c -#} e {#+ c +#}\nf",
    "{% raw %}{{ x }} {% if %}{% endraw %}\nb",
    "a \n{%- raw -%} {{ x }} {%- endraw -%} \nb",
    "  {% raw %}\n x {% endraw %}\n",
    "{{ '{{' }} {{ '%}' }} {% if '%}' == '%}' %}y{% endif %}",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {}}}}",
    "x\r\ny\rz\n\n",
    "\n",
    "",
    "{% if false %}a{% elif n == 7 %}b{% else %}c{% endif %}",
    "{% if not undef %}a{% endif %}{% if undef.x is defined %}b{% endif %}",
    "{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}",
    "{% for i in [1,2,3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }}{{ loop.changed(i // 2) }}{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}{% for i in [1] %}x{% else %}empty{% endfor %}",
    "{% for i in range(6) if i % 2 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% else %}none{% endfor %}",
    "{% for i in range(6) if i > 9 %}{{ i }}{% else %}none{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}",
    "{% for k, v in d|items %}{{ k }}{{ loop.last }}{% endfor %}{% for k, v in d|dictsort %}{{ k }}{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for c in 'h\u00e9y' %}{{ c }}.{% endfor %}{% for x in undef %}y{% endfor %}",
    "{% for x in 5 %}y{% endfor %}",
    "{% for x in none %}y{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1,2] %}{% for j in [1,2] %}{{ i }}{{ j }}{{ loop.index }}{% if j == 1 %}{% continue %}{% endif %}{% break %}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% set v = 1 %}{% for i in [1,2] %}{{ v }}{% set v = i + 10 %}{{ v }}{% endfor %}{{ v }}",
    "{% set v = 1 %}{% if true %}{% set v = 2 %}{% endif %}{{ v }}",
    "{% set ns = namespace(v=1, l=[]) %}{% for i in [1,2] %}{% set ns.v = ns.v + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.v }}{{ ns.l }}{{ ns.nope }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b, c = 2, 3 %}{{ ns.a }}{{ ns.b }}{{ c }}",
    "{% set nothing.a = 1 %}",
    "{% set d.a = 1 %}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = [3, 4] %}{{ a }}{{ b }}{% set a = 1, %}{{ a }}",
    "{% set x %}  body {{ n }}\n{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]",
    "{% set x %}a{% set inner = 5 %}{% endset %}{{ inner }}{{ x is string }}{{ x is escaped }}",
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}|{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}",
    "{% set g = 1 %}{% macro m() %}{{ g }}{% set g2 = 5 %}{% endmacro %}{% set g = 2 %}{{ m() }}{{ g2 }}",
    "{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * (fact(n - 1)|int) }}{% endif %}{% endmacro %}{{ fact(6) }}",
    "{% macro m() %}a{% endmacro %}{{ m }}|{{ m() | upper }}|{{ m() ~ m() }}|{{ m.name }}",
    "{% macro m() %}\n  x\n{% endmacro %}[{{ m() }}][{{ m()|trim }}]",
    "{% macro dialog(title) %}<{{ title }}>{{ caller() }}</{{ title }}>{% endmacro %}{% call dialog('t') %}body {{ n }}{% endcall %}",
    "{% macro each(l) %}{% for i in l %}{{ caller(i) }},{% endfor %}{% endmacro %}{% call(x) each([1,2]) %}<{{ x }}>{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b') | trim %} aaa {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a }}{{ c }}",
    "{% with %}{% set n = 1 %}{{ n }}{% endwith %}{{ n }}",
    "{% generation %}a{{ n }}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}{{ loop.index }}{% endfor %}",
    "{% print 1 + 2 %}{% print 'a', 'b' %}",
    "{% if true %}{{ n }}{% endif %}{% if l %}{{ l[0] }}{% endif %}",
    "{%if true%}a{%endif%}{%-if true-%} b {%-endif-%}",
    "{{ 1 }}{{- 2 -}} {{ 3 }}",
    "{{\n1\n+\n2\n}}",
    "{% set x = {'a': [1, 2], 'b': 'c'} %}{{ x.a[0] }}{{ x['b'] }}{{ x }}",
    "{% set g = ['a', 'b']|map('upper') %}{{ g|join }}{{ g|join }}{% for x in g %}{{ x }}{% endfor %}",
    "{% set g = ['a', 'b']|map('upper') %}{{ g|length }}",
    "{% set g = ['a', 'b']|map('upper') %}{{ g|last }}",
    "{% set g = ['a', 'b', 'c']|select %}{{ g|first }}{{ g|first }}{{ g|list }}",
    "{% set g = ['a']|map('upper') %}{{ g[0] is undefined }}{{ g is iterable }}{{ g is sequence }}{% if g %}yes{% endif %}",
    "{% for x in ['a', 'b']|map('upper') %}{{ loop.index }}{{ loop.length }}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for group, people in people|groupby('age') %}{{ group }}: {{ people|map(attribute='name')|join(',') }}; {% endfor %}",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}\n{{ m['content'] | trim }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}",
    "{%- for m in messages %}\n    {%- if m.role == 'system' %}\n        {{- m.content }}\n    {%- else %}\n        {{- '[' ~ m.role ~ ']' }}\n    {%- endif %}\n{%- endfor %}\n",
    "{% for m in messages[::-1] %}{{ m.role }}{{ (messages|length - 1) - loop.index0 }} {% endfor %}",
    "{% for r in range(2) %}{% for m in messages %}{% if loop.first %}{{ r }}{% endif %}{% endfor %}{% endfor %}",
    "{% for a in [1,2] %}{% set outer = loop %}{% for b in [1,2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for a in [1] %}{{ loop }}{{ loop|length }}{% endfor %}",
    "{% for i in [1,2,3] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% set f = none %}{% for i in [1] %}{{ f is none }}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ loop_messages|length }}{{ system_message }}",
    "{{ bos_token }}{% if add_generation_prompt %}x{% endif %}{{ tools }}",
    "{% set content = 'a\\nb' %}{{ content | indent(4) }}{{ content.split('\\n')|length }}",
    "{% set l2 = [] %}{{ l2.append(1) }}",
    "{% set _ = l.append(1) %}",
    "{{ strftime_now('') }}|",
    "{{ n }} {{ s }} {{ none_ }} {{ t }} {{ undef }}",
    "{%- set q = 'x' -%}   {{ q }}   {%- set q = 'y' %}   {{ q }}",
    "{% if 1 %}   {% endif %}|\n   {% if 1 %}\n x{% endif %}\n|",
    "  \t{% set a = 1 %}  \n{{ a }}",
    "x{% set a = 1 %}\ny",
    "x {% set a = 1 %}  \n\ny",
    "\n\n  {#- c #}x\n  {# c #} y",
    "\u00a0{%- if true %}\u2003{%- endif %}\u00a0",
    "{{ 'a' }}\n{{ 'b' }}\n\n{{ 'c' -}}\n\n d",
    "{% for i in [1, 2] -%}\n  {{ i }}\n{%- endfor %}",
    "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}",
    "{% for i in [1, 2] +%}\n  {{ i }}\n{% endfor +%}\nx",
    "{% set x = 'a' if n else 'b' %}{{ x }}{% set y = ('a', 'b') %}{{ y }}",
    "{{ 'a' if n > 5 else 'b' if n > 3 else 'c' }}{{ ('a' if n > 5) ~ ('b' if n < 5) }}",
    "{{ [1, 2, 3] | select('in', [1, 3]) | list }}{{ ['ab', 'c'] | map('length') | list }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% nosuch %}", "{% if %}{% endif %}",
    "{% if x %}", "{% endif %}", "{% for x %}{% endfor %}", "{{ }}", "{{ 1 2 }}", "{{ (1 }}", "{{ 1) }}", "{{ 'a }}",
    "{% set x %}", "{% set 1 = 2 %}", "{% macro m(a=1, b) %}{% endmacro %}", "{# x", "{% raw %}x", "{{ x.}}", "{{ x[}}",
    "{{ x|}}", "{{ x is }}", "{{ a.b.c(d=1, *e, **f }}", "{% call 5 %}{% endcall %}", "{{ 1 is defined is defined }}",
    "{% break %}", "{{ {'a' 1} }}", "{{ [1 2] }}", "{{ not }}", "{% for x in [1] %}{% else %}{% else %}{% endfor %}",
    "{{ dict(**{'a': 1}) }}{{ range(*[1, 3])|list }}{{ '{}{}'.format(*['x', 'y']) }}",
    "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 1, 'b': 2}) }}{{ m(1, **{'b': 5}) }}",
    "{{ s.replace('o', '0').upper()[::-1][:5]|lower }}",
    "{{ ((l|sort)[0], (l|sort|reverse|list)[0]) }}",
    "{% set x = 5 %}{% set x = x + 1 %}{{ x }}{% set x = x ~ x %}{{ x }}",
    "{% set s2 = '' %}{% for i in range(3) %}{% set s2 = s2 + 'x' %}{% endfor %}[{{ s2 }}]",
    "{% set ns = namespace(a='') %}{% for i in range(300) %}{% set ns.a = ns.a + 'xy' %}{% set old = ns.a %}{% endfor %}{{ ns.a|length }}",
    "{% set a = 'x' * 200 %}{% set b = a + 'b' %}{% set c = a + 'c' %}{% set e = b + 'd' %}{% set g = b + 'h' %}{{ (b|last, c|last, e|last, g|last, b|length) }}",
    "{% if tools is none %}none{% endif %}{% if tools is not defined %}undef{% endif %}{% if not tools %}no{% endif %}",
    "{{ messages|map(attribute='content')|select('string')|list|tojson }}",
]
