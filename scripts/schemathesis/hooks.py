"""What Schemathesis changes in the requests it makes: names and lengths, so that many are answered."""

import schemathesis

LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    # A model that is there, most of the time; the others are refused, as they should be.
    if isinstance(body.get("model"), str) and len(body["model"]) % 4 != 1:
        body["model"] = "rapport-fast"
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and isinstance(message.get("role"), str) and len(message["role"]) % 4 != 1:
            message["role"] = "user"
    path = context.operation.path
    known = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    for name in LENGTHS:
        if isinstance(body.get(name), int) and body[name] > 4:
            body[name] = 4
    if body.get(known) is None and (known != "max_tokens" or body.get("max_completion_tokens") is None):
        body[known] = 4
    if isinstance(body.get("n"), int) and body["n"] > 2:
        body["n"] = 2
    return body
