"""llama-server as the Python package xllamacpp (2026.10.11549) brings it, to measure against and to stand in front of.

Usage: python llama_server.py MODEL.gguf STREAMS CONTEXT_TOKENS [PORT]"""

import sys
import threading

import xllamacpp

model, n_streams, n_context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = xllamacpp.CommonParams()
params.model.path = model
params.model_alias = ["llama"] if isinstance(params.model_alias, list) else {"llama"}
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[4]) if len(sys.argv) > 4 else 8081
params.n_parallel = n_streams
params.n_ctx = n_context
params.kv_unified = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.n_threads_http = n_streams + 8
params.use_jinja = True
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
threading.Event().wait()
