"""Drives `rapport serve` with OpenAI's own client. Usage: openai_client.py BASE_URL [without-embeddings]"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0)


def ask(text, **settings):
    settings = {"model": "rapport-fast", "max_tokens": 12, "temperature": 0, **settings}
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **settings)


assert [model.id for model in client.models.list()] == ["rapport", "rapport-fast", "rapport-thinking"]
assert client.models.retrieve("rapport-fast").id == "rapport-fast"

whole = ask("Say hello.")
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert whole.usage.completion_tokens_details.reasoning_tokens == 0
assert whole.system_fingerprint == whole.model_extra["rapport"]["build"]

chunks = list(ask("Say hello.", stream=True, stream_options={"include_usage": True}))
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert streamed == text, (streamed, text)
assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0, "the prompt was asked before"

thinking = ask("I lost my job and feel low.", model="rapport-thinking")
assert thinking.choices[0].message.reasoning_content
assert thinking.usage.completion_tokens_details.reasoning_tokens > 0
parts = [chunk.choices[0].delta for chunk in ask("I feel low.", model="rapport-thinking", stream=True)]
assert any(getattr(part, "reasoning_content", None) for part in parts)
auto = ask("Good morning!", model="rapport").model_extra["rapport"]["mode"]
assert auto["mode"] in ("fast", "thinking") and auto["reason"]

if "without-embeddings" not in sys.argv:
    texts = ["My cat sleeps on the sofa.", "The kitten is napping on the couch.", "Interest rates rose again."]
    vectors = client.embeddings.create(model="rapport", input=texts)
    assert vectors.usage.prompt_tokens > 10
    cat, kitten, rates = (item.embedding for item in vectors.data)
    assert abs(sum(x * x for x in cat) - 1) < 1e-3
    near = sum(a * b for a, b in zip(cat, kitten))
    assert near > sum(a * b for a, b in zip(cat, rates)), "related texts are nearer"
    plain = client.embeddings.create(model="rapport", input=texts[0], encoding_format="float", dimensions=64)
    assert len(plain.data[0].embedding) == 64

schema = {
    "type": "object",
    "properties": {"mood": {"enum": ["calm", "glad", "sad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
format = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema, "strict": True}}
moods = ask("How do I sound? I won!", response_format=format, n=2, max_tokens=30)
for choice in moods.choices:
    mood = json.loads(choice.message.content)
    assert set(mood) == {"mood"} and mood["mood"] in ("calm", "glad", "sad"), mood

logprobs = ask("Say hello.", logprobs=True, top_logprobs=2).choices[0].logprobs.content
assert len(logprobs[0].top_logprobs) == 2 and logprobs[0].logprob <= 0
assert "".join(token.token for token in logprobs).startswith(text[:4])

weather = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 20}},
    "required": ["place"],
    "additionalProperties": False,
}
function = {"name": "get_weather", "description": "The weather of a place", "parameters": weather}
tools = {
    "tools": [{"type": "function", "function": function}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 80,
}
called = ask("What is the weather in Oslo?", **tools).choices[0]
assert called.finish_reason == "tool_calls"
call = called.message.tool_calls[0]
assert set(json.loads(call.function.arguments)) == {"place"}
with client.chat.completions.stream(
    model="rapport-fast",
    messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
    temperature=0,
    **tools,
) as stream:
    streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
assert streamed.function.arguments == call.function.arguments
answered = client.chat.completions.create(
    model="rapport-fast",
    messages=[
        {"role": "user", "content": "What is the weather in Oslo?"},
        called.message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ],
    tools=tools["tools"],
    tool_choice="none",
    max_tokens=20,
)
assert answered.choices[0].message.content

plain = client.completions.create(
    model="rapport", prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=1
)
assert "Paris" in plain.choices[0].text, plain
assert len(plain.choices[0].logprobs.tokens) == len(plain.choices[0].logprobs.token_logprobs) > 0

response = client.responses.create(
    model="rapport-thinking", input="I feel low today.", max_output_tokens=12, temperature=0
)
assert [item.type for item in response.output] == ["reasoning", "message"]
assert response.output_text and response.usage.output_tokens_details.reasoning_tokens > 0
assert client.responses.retrieve(response.id).output_text == response.output_text
following = client.responses.create(
    model="rapport-fast", input="Thank you.", previous_response_id=response.id, max_output_tokens=8
)
assert following.previous_response_id == response.id
assert following.usage.input_tokens_details.cached_tokens > 0, "the conversation went on"
assert [item.role for item in client.responses.input_items.list(response.id)] == ["user"]
with client.responses.stream(
    model="rapport-thinking", input="I feel low today.", max_output_tokens=12, temperature=0
) as stream:
    events = list(stream)
names = [event.type for event in events]
streamed = events[-1].response
assert "response.output_text.delta" in names and "response.reasoning_text.delta" in names
assert streamed.output_text == response.output_text
flat = {"type": "function", **function, "strict": True}
called = client.responses.create(
    model="rapport-fast", input="Weather in Oslo?", tools=[flat], tool_choice="required",
    parallel_tool_calls=False, max_output_tokens=80,
).output[-1]
assert called.type == "function_call" and set(json.loads(called.arguments)) == {"place"}
client.responses.delete(response.id)
try:
    client.responses.retrieve(response.id)
except openai.NotFoundError:
    pass
else:
    raise AssertionError("a deleted response was found")

for settings, error in [
    ({"temperature": 5}, openai.BadRequestError),
    ({"model": "nobody"}, openai.NotFoundError),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}}},
     openai.BadRequestError),
]:
    try:
        ask("x", **settings)
    except error as refused:
        assert refused.body["message"], refused
    else:
        raise AssertionError(f"{settings} was taken")
print("every call did what the client expects")
