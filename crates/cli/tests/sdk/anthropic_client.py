"""Drives `rapport serve` with Anthropic's own client. Usage: anthropic_client.py BASE_URL"""

import sys

import anthropic

# Its paths begin with /v1 themselves.
client = anthropic.Anthropic(
    base_url=sys.argv[1].removesuffix("/v1"), api_key="unused", max_retries=0
)


def ask(text, temperature=0, **settings):
    # This version of the client has no argument for the temperature.
    settings = {"model": "rapport-fast", "max_tokens": 12, **settings}
    settings["extra_body"] = {"temperature": temperature}
    return {"messages": [{"role": "user", "content": text}], **settings}


assert [model.id for model in client.models.list()][0] == "rapport"

whole = client.messages.create(**ask("Say hello."))
assert whole.content[0].type == "text" and whole.content[0].text
assert whole.stop_reason in ("end_turn", "max_tokens")
assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens > 5
assert whole.usage.output_tokens > 0

with client.messages.stream(**ask("Say hello.")) as stream:
    streamed = "".join(stream.text_stream)
    final = stream.get_final_message()
assert streamed == whole.content[0].text == final.content[0].text
assert final.usage.output_tokens == whole.usage.output_tokens
assert final.usage.cache_read_input_tokens > 0, "the prompt was asked before"

counted = client.messages.count_tokens(
    model="rapport-fast", messages=[{"role": "user", "content": "Say hello."}]
)
assert counted.input_tokens == final.usage.input_tokens + final.usage.cache_read_input_tokens

thinking = client.messages.create(
    **ask("I lost my job and feel low.", max_tokens=120, model="rapport"),
    thinking={"type": "enabled", "budget_tokens": 100},
)
assert [block.type for block in thinking.content] == ["thinking", "text"], thinking.content
assert thinking.content[0].thinking

stopped = client.messages.create(**ask("Count from 1 to 9.", max_tokens=40), stop_sequences=["5"])
if stopped.stop_reason == "stop_sequence":
    assert stopped.stop_sequence == "5" and "5" not in stopped.content[0].text

tool = {
    "name": "get_weather",
    "description": "The weather of a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 20}},
        "required": ["place"],
        "additionalProperties": False,
    },
}
settings = ask("What is the weather in Oslo?", max_tokens=80)
settings.update(tools=[tool], tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True})
called = client.messages.create(**settings)
assert called.stop_reason == "tool_use"
use = called.content[-1]
assert use.type == "tool_use" and set(use.input) == {"place"}, use
with client.messages.stream(**settings) as stream:
    assert stream.get_final_message().content[-1].input == use.input

answered = client.messages.create(
    model="rapport-fast",
    max_tokens=20,
    tools=[tool],
    tool_choice={"type": "none"},
    messages=[
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]},
    ],
)
assert answered.content[0].type == "text"

for settings, error in [
    ({"temperature": 5}, anthropic.BadRequestError),
    ({"model": "nobody"}, anthropic.NotFoundError),
]:
    try:
        client.messages.create(**ask("x", **settings))
    except error as refused:
        assert refused.body["error"]["message"] and refused.request_id, refused
    else:
        raise AssertionError(f"{settings} was taken")
print("every call did what the client expects")
