#!/usr/bin/env python3
"""Renders the chat template fixtures with Jinja2, set up the way Python's `transformers` does it.

    pip install jinja2
    python3 scripts/chat_template_reference.py [FOLDER]

FOLDER (crates/model/tests/fixtures/chat_template unless given) holds

    templates/NAME.jinja   the templates
    language/NAME.jinja    walks through the language, rendered with one conversation only
    tokens.json            NAME -> the model's bos and eos token, where it has them
    conversations.json     what is rendered with each of them
    expected.json          FOLDER/NAME -> conversation -> {"text"}, {"refused"} or {"error"}: written here
"""

import datetime
import json
import sys
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 14, 15, 9, 26)


class GenerationTag(Extension):
    """`{% generation %}`: marks the assistant's turns for training and prints its body."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Refused(Exception):
    pass


def raise_exception(message):
    raise Refused(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(template, tokens, conversation):
    variables = {f"{name}_token": token for name, token in tokens.items()}
    if conversation.get("enable_thinking") is not None:
        variables["enable_thinking"] = conversation["enable_thinking"]
    try:
        text = template.render(
            messages=conversation["messages"],
            tools=None,
            documents=None,
            add_generation_prompt=conversation["add_generation_prompt"],
            **variables,
        )
    except Refused as refused:
        return {"refused": str(refused)}
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError) as error:
        return {"error": type(error).__name__}
    return {"text": text}


def main():
    default = Path(__file__).parent.parent / "crates/model/tests/fixtures/chat_template"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    conversations = json.loads((folder / "conversations.json").read_text())
    tokens = json.loads((folder / "tokens.json").read_text())
    expected = {}
    for path in sorted(folder.glob("*/*.jinja")):
        with path.open(newline="") as file:
            template = environment().from_string(file.read())
        everything = path.parent.name == "templates"
        expected[f"{path.parent.name}/{path.stem}"] = {
            conversation["name"]: render(template, tokens.get(path.stem, {}), conversation)
            for conversation in conversations
            if everything or conversation["name"] == "several_turns"
        }
    written = json.dumps(expected, ensure_ascii=False, indent=1)
    (folder / "expected.json").write_text(written + "\n")
    n_texts = sum("text" in case for cases in expected.values() for case in cases.values())
    print(f"{len(expected)} templates, {len(conversations)} conversations, {n_texts} texts")


if __name__ == "__main__":
    main()
