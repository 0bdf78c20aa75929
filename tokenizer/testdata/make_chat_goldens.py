"""Renders conversations with transformers' chat template code (written with transformers 5.24.0, jinja2 3.1.6).

    python make_chat_goldens.py

Writes chat.golden.json beside this script: for templates of the ChatML family, for conversations and options, the text (or
that Python raises), and the byte ranges that the same template with {% generation %} around content and <|im_end|> marks.
"""
import json, os
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
