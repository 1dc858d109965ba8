"""Drives `rapport serve` over gRPC with xAI's own client. Usage: xai_client.py BASE_URL"""

import json
import sys
from typing import Literal
from urllib.parse import urlsplit

import grpc
from pydantic import BaseModel
from xai_sdk import Client
from xai_sdk.chat import assistant, image, system, tool, tool_result, user

client = Client(api_key="unused", api_host=f"localhost:{urlsplit(sys.argv[1]).port}")


def chat(*messages, **settings):
    settings = {"model": "rapport-fast", "max_tokens": 12, "temperature": 0, **settings}
    return client.chat.create(messages=list(messages), **settings)


names = [model.name for model in client.models.list_language_models()]
assert names == ["rapport", "rapport-fast", "rapport-thinking"], names
model = client.models.get_language_model("rapport-fast")
assert model.name == "rapport-fast" and model.max_prompt_length > 0
assert list(client.models.list_image_generation_models()) == []
tokens = client.tokenize.tokenize_text(text="Héllo world", model="rapport")
assert b"".join(token.token_bytes for token in tokens) == "Héllo world".encode(), tokens
assert client.auth.get_api_key_info().redacted_api_key

whole = chat(user("Say hello.")).sample()
assert whole.content and whole.finish_reason in ("REASON_STOP", "REASON_MAX_LEN"), whole
assert whole.role == "ROLE_ASSISTANT" and not whole.reasoning_content
usage = whole.usage
assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
assert usage.prompt_text_tokens == usage.prompt_tokens > 0 and usage.reasoning_tokens == 0

pieces = []
for last, piece in chat(user("Say hello.")).stream():
    pieces.append(piece.content)
assert "".join(pieces) == last.content == whole.content, (pieces, whole.content)
assert last.finish_reason == whole.finish_reason
assert last.usage.completion_tokens == usage.completion_tokens
assert last.usage.cached_prompt_text_tokens > 0, "the prompt was asked before"

conversation = chat(system("You are kind."), user("I lost my job and feel low."), model="rapport-thinking")
thinking = conversation.sample()
assert thinking.reasoning_content and thinking.usage.reasoning_tokens > 0
conversation.append(thinking)
conversation.append(user("Thank you."))
assert conversation.sample().content
thoughts = [piece.reasoning_content for _, piece in chat(user("I feel low."), model="rapport-thinking").stream()]
assert any(thoughts)
assert not chat(user("I feel low."), model="rapport-thinking", reasoning_effort="none").sample().reasoning_content

several = chat(user("Say hello."), temperature=1, seed=7).sample_batch(3)
assert len(several) == 3 and all(reply.content for reply in several)
logprobs = chat(user("Say hello."), logprobs=True, top_logprobs=2).sample().proto.outputs[0].logprobs.content
assert len(logprobs[0].top_logprobs) == 2 and logprobs[0].logprob <= 0


class Mood(BaseModel):
    mood: Literal["calm", "glad", "sad"]


reply, mood = chat(user("How do I sound? I won!"), max_tokens=30).parse(Mood)
assert json.loads(reply.content) == {"mood": mood.mood}

weather = tool(
    name="get_weather",
    description="The weather of a place",
    parameters={
        "type": "object",
        "properties": {"place": {"type": "string", "maxLength": 20}},
        "required": ["place"],
        "additionalProperties": False,
    },
)
settings = {"tools": [weather], "parallel_tool_calls": False, "max_tokens": 80}
asking = chat(user("What is the weather in Oslo?"), tool_choice="required", **settings)
called = asking.sample()
assert called.finish_reason == "REASON_TOOL_CALLS", called
assert set(json.loads(called.tool_calls[0].function.arguments)) == {"place"}
streamed = [call for _, piece in asking.stream() for call in piece.tool_calls]
assert [call.function.arguments for call in streamed] == [called.tool_calls[0].function.arguments]
asking.append(called)
asking.append(tool_result("rain"))
asking.proto.tool_choice.Clear()
assert asking.sample().content or asking.sample().tool_calls

deferred = chat(user("Say hello.")).defer()
assert deferred.content == whole.content

for refused, code in [
    (chat(user("x"), model="nobody"), grpc.StatusCode.NOT_FOUND),
    (chat(user("x"), temperature=5), grpc.StatusCode.INVALID_ARGUMENT),
    (chat(user("x", image("data:image/png;base64,AAAA"))), grpc.StatusCode.INVALID_ARGUMENT),
    (chat(user("x"), store_messages=True), grpc.StatusCode.INVALID_ARGUMENT),
]:
    for ask in (refused.sample, lambda: list(refused.stream())):
        try:
            ask()
        except grpc.RpcError as error:
            assert error.code() == code and error.details(), error
        else:
            raise AssertionError(f"{refused.proto} was taken")
try:
    client.chat.get_stored_completion("nothing")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
else:
    raise AssertionError("a completion was found")
print("every call did what the client expects")
