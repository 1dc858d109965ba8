"""Drives `rapport serve` over TLS. Usage: tls_client.py talk URL CA.pem TOKEN | serial URL CA.pem HEX"""

import http.client
import json
import socket
import ssl
import sys
from urllib.parse import urlsplit

what, url, authority, expected = sys.argv[1:5]
address = urlsplit(url)
trusting = ssl.create_default_context(cafile=authority)


def handshake(context, **protocols):
    with socket.create_connection((address.hostname, address.port)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            return secure.selected_alpn_protocol(), secure.version(), secure.getpeercert()


if what == "serial":
    assert handshake(trusting)[2]["serialNumber"] == expected, handshake(trusting)
    sys.exit()

for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(offered)
    protocol, version, _ = handshake(context)
    assert (protocol, version) == (chosen, "TLSv1.3"), (protocol, version)
older = ssl.create_default_context(cafile=authority)
older.maximum_version = ssl.TLSVersion.TLSv1_2
assert handshake(older)[1] == "TLSv1.2"
try:
    handshake(ssl.create_default_context())
    raise AssertionError("nobody else knows this authority")
except ssl.SSLCertVerificationError:
    pass

with socket.create_connection((address.hostname, address.port)) as plain:
    plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert not plain.recv(1000).startswith(b"HTTP"), "without TLS nothing is answered"


def ask(method, path, body=None, **headers):
    connection = http.client.HTTPSConnection(address.hostname, address.port, context=trusting)
    headers["content-type"] = "application/json"
    connection.request(method, path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    return answer, json.loads(answer.read() or b"null")


answer, session = ask("GET", "/api/session")
assert answer.getheader("strict-transport-security") == "max-age=31536000"
owner = {"token": expected, "name": "Ada", "password": "correct horse"}
answer, _ = ask("POST", "/api/setup", owner, **{"x-rapport-csrf": session["csrf"]})
assert answer.status == 200 and "; Secure" in answer.getheader("set-cookie"), answer.getheaders()

import httpx2  # noqa: E402
import openai  # noqa: E402

client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", http_client=httpx2.Client(verify=trusting), max_retries=0)
messages = [{"role": "user", "content": "Say hello."}]
reply = client.chat.completions.create(model="rapport-fast", max_tokens=5, messages=messages)
assert reply.choices[0].message.content
