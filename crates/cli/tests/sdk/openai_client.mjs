// Drives `rapport serve` with OpenAI's own client for Node. Usage: node openai_client.mjs BASE_URL
// It imports from the folder node_modules beside it.

import assert from "node:assert/strict";

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const settings = { model: "rapport-fast", max_tokens: 12, temperature: 0, messages };

const whole = await client.chat.completions.create(settings);
const text = whole.choices[0].message.content;
assert.ok(text);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let streamed = "";
let usage;
const stream = await client.chat.completions.create({
  ...settings, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const thinking = await client.chat.completions.create({
  ...settings, model: "rapport-thinking",
  messages: [{ role: "user", content: "I lost my job and feel low." }],
});
assert.ok(thinking.choices[0].message.reasoning_content);

const two = await client.embeddings.create({ model: "rapport", input: ["Good morning.", "Good evening."] });
assert.equal(two.data.length, 2);
assert.ok(Math.abs(Math.hypot(...two.data[0].embedding) - 1) < 1e-3);
const floats = await client.embeddings.create({ model: "rapport", input: "Good morning.", encoding_format: "float" });
assert.ok(Math.abs(floats.data[0].embedding[5] - two.data[0].embedding[5]) < 1e-6);

const parameters = {
  type: "object",
  properties: { place: { type: "string", maxLength: 20 } },
  required: ["place"],
  additionalProperties: false,
};
const called = await client.chat.completions.create({
  ...settings, max_tokens: 80, parallel_tool_calls: false, tool_choice: "required",
  messages: [{ role: "user", content: "What is the weather in Oslo?" }],
  tools: [{ type: "function", function: { name: "get_weather", parameters } }],
});
const call = called.choices[0].message.tool_calls[0];
assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["place"]);

const response = await client.responses.create({
  model: "rapport-fast", input: "Say hello.", max_output_tokens: 12, temperature: 0,
});
assert.ok(response.output_text);
const names = [];
const events = await client.responses.create({
  model: "rapport-fast", input: "Say hello.", max_output_tokens: 12, temperature: 0, stream: true,
});
for await (const event of events) names.push(event.type);
assert.equal(names[0], "response.created");
assert.ok(["response.completed", "response.incomplete"].includes(names.at(-1)));
await client.responses.delete(response.id);
await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
await assert.rejects(
  client.chat.completions.create({ ...settings, model: "nobody" }), OpenAI.NotFoundError,
);
console.log("every call did what the client expects");
