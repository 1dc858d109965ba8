"""Drives `rapport serve` over gRPC with TLS by xAI's own client. Usage: tls_grpc_client.py PORT"""

import sys

import grpc
from xai_sdk.proto import chat_pb2, chat_pb2_grpc

# The client's own channel to `localhost` is without TLS; these are its messages over one that has it.
channel = grpc.secure_channel(f"localhost:{sys.argv[1]}", grpc.ssl_channel_credentials())
content = [chat_pb2.Content(text="Say hello.")]
message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=content)
request = chat_pb2.GetCompletionsRequest(model="rapport-fast", messages=[message], max_tokens=5)
chunks = list(chat_pb2_grpc.ChatStub(channel).GetCompletionChunk(request, metadata=[("authorization", "Bearer unused")]))
assert "".join(output.delta.content for chunk in chunks for output in chunk.outputs), chunks
