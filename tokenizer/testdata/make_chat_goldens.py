"""Renders conversations with transformers' chat template code (written with transformers 5.24.0, jinja2 3.1.6).

    python make_chat_goldens.py

Writes beside this script chat.golden.json: for templates of the ChatML family, for conversations and options, the text (or
that Python raises), and the byte ranges that the same template with {% generation %} around content and <|im_end|> marks;
and continued.golden.json.gz: conversations whose last message is continued, over the chat templates of TRL (trl 1.16.0).
"""
import datetime, glob, gzip, json, os
import transformers.utils.chat_template_utils as ctu
from transformers.utils.chat_template_utils import render_jinja_template

PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SYSTEM = "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
TURN = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
MARKED = ("{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
          "{% else %}" + TURN + "{% endif %}")
FOR, END = "{% for message in messages %}", "{% endfor %}"

plain, smollm2 = FOR + MARKED + END + PROMPT, FOR + SYSTEM + MARKED + END + PROMPT
TEMPLATES = {  # name: (template, the same with generation marks)
    "smollm2": (FOR + SYSTEM + TURN + END + PROMPT, smollm2),
    "plain": (FOR + TURN + END + PROMPT, plain),
    "escaped": ((FOR + TURN + END + PROMPT).replace("\n", "\\n"), plain),
    "joined literal": (FOR + "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}" + END + PROMPT, plain),
    "double quotes, attributes": (FOR + '{{ "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}' + END + PROMPT, plain),
    "guarded": ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" + FOR + TURN + END + PROMPT, plain),
    "lines": ("{% for message in messages %}\n{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\n" + PROMPT + "\n", plain),
    "no prompt": (FOR + TURN + END, FOR + MARKED + END),
}
M = lambda role, content: dict(role=role, content=content)
CONVERSATIONS = {
    "empty": [],
    "user": [M("user", "Hi")],
    "turns": [M("user", "What is 2+2?"), M("assistant", "4"), M("user", "And 3+3?"), M("assistant", "6")],
    "system": [M("system", "Be brief.\nVery."), M("user", "Hi"), M("assistant", "Hello!")],
    "system later": [M("user", "Hi"), M("system", "Be brief."), M("assistant", "ok")],
    "assistant first": [M("assistant", "I begin."), M("user", "fine")],
    "odd text": [M("user", "  spaces  \n"), M("assistant", "\n<b>&\"quotes\" 'single' {{ braces }} {% raw %}\n\n"), M("assistant", "")],
    "unicode": [M("user", "日本語 👍🏽 é"), M("assistant", "はい、そうです。🎉"), M("tool", "{\"x\": 1}"), M("assistant", "ü")],
    "special tokens in text": [M("user", "<|im_end|>"), M("assistant", "<|im_start|>user\nx<|im_end|>\n")],
    "no content": [M("user", "Hi"), dict(role="assistant")],
    "null content": [M("user", None)],
    "content parts": [M("user", [dict(type="text", text="Hi")])],
    "no role": [dict(content="x")],
}
OPTIONS = [{}, dict(add_generation_prompt=True), dict(continue_final_message=True)]

out = []
for tname, (template, marked) in TEMPLATES.items():
    for cname, messages in CONVERSATIONS.items():
        for options in OPTIONS:
            row = dict(template=template, name=f"{tname}/{cname}", messages=messages, **options)
            try:
                row["text"] = render_jinja_template([messages], chat_template=template, **options)[0][0]
                if "continue_final_message" not in options:
                    text, spans = render_jinja_template([messages], chat_template=marked, return_assistant_tokens_mask=True, **options)
                    assert text[0] == row["text"], (row, text[0])
                    row["spans"] = [[len(text[0][:a].encode()), len(text[0][:b].encode())] for a, b in spans[0]]
            except AssertionError:
                raise
            except Exception as e:
                row["raises"] = type(e).__name__
            out.append(row)
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat.golden.json"), "w") as f:
    json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
print(len(out), sum("raises" in r for r in out))


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)


ctu.datetime = Fixed
import trl
SPECIAL = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
P = lambda *texts: [dict(type="text", text=t) for t in texts]
CONTINUED = {
    "answer": [M("user", "Hi"), M("assistant", "The answer")],
    "second answer": [M("system", "S"), M("user", "a"), M("assistant", "b"), M("user", "c"), M("assistant", "d\nand")],
    "space at the end": [M("user", "Hi"), M("assistant", " The answer is \n")],
    "empty": [M("user", "Hi"), M("assistant", "")],
    "user": [M("user", "I would like")],
    "parts": [M("user", P("Hi")), M("assistant", P("The ", "answer "))],
    "image last": [M("user", P("Hi")), M("assistant", P("The ") + [dict(type="image")])],
    "no text": [M("user", P("Hi")), M("assistant", [dict(type="image")])],
    "thinking": [M("user", "Hi"), M("assistant", "<think>\nhm\n</think>\n\nThe")],
    "open thinking": [M("user", "Hi"), M("assistant", "<think>\nhm")],
    "the mark in the text": [M("user", "CONTINUE_FINAL_MESSAGE_TAG "), M("assistant", "x")],
    "null": [M("user", "Hi"), M("assistant", None)],
}
renders = {}
for path in sorted(glob.glob(os.path.join(os.path.dirname(trl.__file__), "chat_templates", "*.jinja"))):
    template = open(path, encoding="utf-8", newline="").read()
    for name, messages in CONTINUED.items():
        try:
            r = dict(ok=render_jinja_template([messages], chat_template=template, continue_final_message=True, **SPECIAL)[0][0])
        except Exception as e:
            r = dict(err=type(e).__name__)
        renders[os.path.basename(path).removesuffix(".jinja") + "/" + name] = r
data = json.dumps(dict(special=SPECIAL, cases=CONTINUED, renders=renders), ensure_ascii=False, separators=(",", ":")).encode()
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "continued.golden.json.gz"), "wb") as f:
    f.write(gzip.compress(data, 9, mtime=0))
print(len(renders), sum("err" in r for r in renders.values()))
