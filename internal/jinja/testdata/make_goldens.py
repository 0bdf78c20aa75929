"""Renders templates with transformers' own environment (written with transformers 5.24.0, jinja2 3.1.6, trl 1.16.0).

    python make_goldens.py [FOLDER WITH chat_templates.json AND chat_cases.json]

Writes beside this script
  features.golden.json     templates.txt's small templates: text, or class and template line of the exception
  trl.golden.json.gz       TRL's chat templates over the conversations below, with the spans of {% generation %}
  published.golden.json.gz the published templates of the folder over the same conversations (only if a folder is given)
"""
import datetime, gzip, json, os, re, sys, traceback
import transformers.utils.chat_template_utils as ctu

HERE = os.path.dirname(os.path.abspath(__file__))


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)


ctu.datetime = Fixed


def error(e):
    """Class of an exception and the line of the template."""
    line = getattr(e, "lineno", None)
    if line is None:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename in ("<template>", "<unknown>")]
        line = lines[-1] if lines else 0
    return dict(err=type(e).__name__, line=line)


def render(source, context):
    try:
        template = ctu._compile_jinja_template(source)
        blocks, spans = [], []
        with template.environment.activate_tracker(blocks, spans):
            for block in template.generate(**context):
                blocks.append(block)
        text = "".join(blocks)
        out = dict(ok=text)
        if spans:
            out["spans"] = [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans]
        text.encode()
        return out
    except Exception as e:
        return error(e)


def features():
    """templates.txt: templates separated by lines of ====, groups by lines that begin with #### ."""
    group, out = "", []
    source = open(os.path.join(HERE, "templates.txt"), encoding="utf-8", newline="").read()
    context = json.load(open(os.path.join(HERE, "context.json"), encoding="utf-8"))
    for chunk in re.split(r"^====\n", source, flags=re.M):
        if chunk.startswith("#### "):
            group, chunk = chunk[5:].split("\n", 1)
        chunk = chunk.removesuffix("\n")
        if chunk == "":
            continue
        r = dict(group=group, t=chunk, **render(chunk, context))
        assert " at 0x" not in r.get("ok", ""), r
        out.append(r)
    return out


def M(role, content=None, **more):
    m = dict(role=role)
    if content is not None:
        m["content"] = content
    return dict(m, **more)


def parts(*texts):
    return [dict(type="text", text=t) for t in texts]


def call(name, arguments, id="call00001"):
    return dict(id=id, type="function", function=dict(name=name, arguments=arguments))


WEATHER = dict(type="function", function=dict(
    name="get_weather", description="Get the \"weather\" for <city> & more\nin two lines",
    parameters=dict(type="object", properties=dict(
        city=dict(type="string", description="都市名"), unit=dict(type="string", enum=["c", "f"], default="c"),
        days=dict(type="integer", minimum=1, maximum=14.5), tags=dict(type="array", items=dict(type="string")),
        where=dict(type="object", properties=dict(lat=dict(type="number"), lon=dict(type=["number", "null"])), required=["lat"])),
        required=["city"])))
ADD = dict(type="function", function=dict(name="add", description="Adds", parameters=dict(
    type="object", properties=dict(a=dict(type="number"), b=dict(type="number")), required=["a", "b"]), strict=True))
NONE = dict(type="function", function=dict(name="now", description="", parameters=dict(type="object", properties={})))
TALK = [M("user", "What is 2+2?"), M("assistant", "4"), M("user", "And 3+3?"), M("assistant", "6")]
LOOP = [M("user", "Weather in Tokyo and Paris?"),
        M("assistant", "Let me see.", tool_calls=[call("get_weather", dict(city="東京", unit="c", days=2)), call("get_weather", dict(city="Paris", tags=["a", None], f=1.5, ok=True), "call00002")]),
        M("tool", "{\"temp\": 21}", name="get_weather", tool_call_id="call00001"),
        M("tool", "{\"temp\": 12.0}", name="get_weather", tool_call_id="call00002"),
        M("assistant", "21 and 12."), M("user", "Thanks"), M("assistant", "Welcome!")]
CASES = {
    "user": dict(messages=TALK[:1], add_generation_prompt=True),
    "talk": dict(messages=TALK),
    "talk prompt": dict(messages=TALK[:3], add_generation_prompt=True),
    "system": dict(messages=[M("system", "Be brief.\n\nVery.")] + TALK),
    "spaces": dict(messages=[M("system", "\n  sys \t\n"), M("user", "  a\n\n"), M("assistant", "\n\n b \u3000\xa0"), M("user", "\r\nc\r\n \x1f"), M("assistant", "")]),
    "odd text": dict(messages=[M("user", "{{ x }} {% raw %} <|im_end|> </think>"), M("assistant", "'\"\\ & <b> </b> \u2028 \U0001f468\u200d\U0001f469\u200d\U0001f466 e\u0301 ﬁ"), M("user", "ünï \x00 \x7f"), M("assistant", "ok")]),
    "tools": dict(messages=[M("system", "Sys."), M("user", "Weather?")], tools=[WEATHER, ADD, NONE], add_generation_prompt=True),
    "tools without system": dict(messages=TALK[:1], tools=[ADD], add_generation_prompt=True),
    "tool loop": dict(messages=LOOP, tools=[WEATHER, ADD]),
    "tool loop prompt": dict(messages=LOOP[:4], tools=[WEATHER], add_generation_prompt=True),
    "tool arguments as text": dict(messages=[LOOP[0], M("assistant", "", tool_calls=[call("get_weather", '{"city": "東京"}')]), LOOP[2], M("assistant", "21.")], tools=[WEATHER]),
    "tool call without content": dict(messages=[LOOP[0], M("assistant", tool_calls=[call("now", {})]), M("tool", "noon"), M("assistant", "Noon.")], tools=[NONE]),
    "tool call with null content": dict(messages=[LOOP[0], dict(role="assistant", content=None, tool_calls=[call("now", {})]), M("tool", "noon"), M("assistant", "Noon.")], tools=[NONE]),
    "bare tool calls": dict(messages=[LOOP[0], M("assistant", "", tool_calls=[dict(name="add", arguments=dict(a=1, b=2.5))]), M("tool", "3.5", name="add"), M("assistant", "3.5")], tools=[ADD]),
    "thinking": dict(messages=[M("user", "Q1"), M("assistant", "<think>\nreason\n</think>\n\nA1"), M("user", "Q2"), M("assistant", "A2", reasoning_content="because\n"), M("user", "Q3"), M("assistant", "A3", thinking="hm", reasoning="hm")]),
    "thinking prompt": dict(messages=[M("user", "Q1"), M("assistant", "A1", reasoning_content="because")] + [M("user", "Q2")], add_generation_prompt=True, enable_thinking=True),
    "no thinking": dict(messages=TALK[:1], add_generation_prompt=True, enable_thinking=False),
    "thinking in tools": dict(messages=[M("user", "Q"), M("assistant", "", reasoning_content="call it", tool_calls=[call("add", dict(a=1, b=2))]), M("tool", "3"), M("assistant", "3", reasoning_content="done")], tools=[ADD]),
    "variables": dict(messages=[M("system", "S /no_think"), M("user", "Q /think")], add_generation_prompt=True, reasoning_effort="high", date_string="1 Jan 2025", custom_tools=[ADD], model_identity="I am.", builtin_tools=["browser", "python"], xml_tools=[ADD], thinking=True, reasoning=True),
    "parts": dict(messages=[M("system", parts("S1", " S2")), M("user", parts(" one ", "two")), M("assistant", parts("three")), M("user", [dict(type="image"), dict(type="text", text="what?")])], add_generation_prompt=True),
    "other parts": dict(messages=[M("user", [dict(type="image", image="x.png"), dict(type="audio", audio="x"), dict(type="video", video="x"), dict(type="text", text="?")])]),
    "bad alternation": dict(messages=[M("user", "a"), M("user", "b"), M("assistant", "c"), M("assistant", "d")]),
    "assistant first": dict(messages=[M("assistant", "hi"), M("user", "b")], add_generation_prompt=True),
    "system later": dict(messages=[M("user", "a"), M("system", "x"), M("user", "b")]),
    "developer": dict(messages=[M("developer", "Dev."), M("user", "a"), M("assistant", "b")]),
    "unknown role": dict(messages=[M("user", "a"), M("critic", "b"), M("assistant", "c")]),
    "no content": dict(messages=[M("user", "a"), M("assistant")]),
    "content is a number": dict(messages=[M("user", 3), M("assistant", 4.0)]),
    "content is a dict": dict(messages=[M("user", dict(a=[1, None, True], b="it's"))]),
    "no role": dict(messages=[dict(content="x")]),
    "empty": dict(messages=[], add_generation_prompt=True),
    "documents": dict(messages=TALK[:1], documents=[dict(title="T", text="Text"), dict(title="U", text="More", contents="C")], add_generation_prompt=True),
}


def conversations(templates):
    """templates: {name: (source, special tokens)}"""
    out = {}
    for name, (source, special) in templates.items():
        for case, context in CASES.items():
            out[f"{name}/{case}"] = render(source, dict(dict(tools=None, documents=None, add_generation_prompt=False), **special, **context))
    return out


def write(name, value):
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(gzip.compress(data, 9, mtime=0) if name.endswith(".gz") else data)


def count(name, results):
    print(name, len(results), "raise:", sum("err" in r for r in results), "spans:", sum("spans" in r for r in results))


f = features()
with open(os.path.join(HERE, "features.golden.json"), "w", encoding="utf-8") as out:
    out.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in f) + "\n]\n")
count("features", f)

import trl
folder = os.path.join(os.path.dirname(trl.__file__), "chat_templates")
special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
sources = {n.removesuffix(".jinja"): open(os.path.join(folder, n), encoding="utf-8", newline="").read() for n in sorted(os.listdir(folder)) if n.endswith(".jinja")}
renders = conversations({n: (s, special) for n, s in sources.items()})
write("trl.golden.json.gz", dict(special=special, templates=sources, cases=CASES, renders=renders))
count("trl", renders.values())

if len(sys.argv) > 1:
    published = json.load(open(os.path.join(sys.argv[1], "chat_templates.json"), encoding="utf-8"))
    published = {n: (t["src"], dict(bos_token=t.get("bos"), eos_token=t.get("eos"))) for n, t in published.items() if not t.get("probe")}
    renders = conversations(published)
    write("published.golden.json.gz", dict(cases=CASES, renders=renders))
    count("published", renders.values())
