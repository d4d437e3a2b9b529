// openai for Node, as its users write it. `node tests/clients/node_openai.mjs BASE_URL KEY` prints
// `ok NAME` or `FAILED NAME: reason` for each feature; the words and files are report.py's.
// Knows nothing of llmrelay.

import assert from "node:assert/strict";
import { File } from "node:buffer";
import { createHash } from "node:crypto";
import OpenAI, { toFile } from "openai";

// As openai asks for where Node is older than 20.
globalThis.File ??= File;

const [baseURL, apiKey] = process.argv.slice(2);
const LIMIT_MS = 20_000;
const SPEECH_GAP_MS = 150;
const SPEECH_BYTES = 200_000;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: LIMIT_MS });

const model = "gpt-4o-mini";
const PROMPT = "Grüße aus Zürich, 東京 🚀";
const ANSWER = `You said: ${PROMPT}`;
const saying = (content) => [{ role: "user", content }];
const messages = saying(PROMPT);

const everyByte = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
const repeated = (start, count) => Buffer.concat([start, ...Array(count).fill(everyByte)]);
const RECORDING = repeated(Buffer.from("RIFF\x24\x08\x00\x00WAVEfmt ", "latin1"), 2000);
const PICTURE = repeated(Buffer.from("\x89PNG\r\n\x1a\n\r\n--", "latin1"), 40);
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
// What upstream makes of words.
const sound = (words) =>
  createHash("shake256", { outputLength: SPEECH_BYTES }).update(words).digest();

const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const FITTING = { city: "Zürich", days: 21 };
const tools = [{ type: "function", function: { name: "forecast", parameters } }];
const recording = () => toFile(RECORDING, "a.wav");
const heard = `I heard a.wav: ${sha256(RECORDING)}`;

async function collect(stream, textOf) {
  const texts = [];
  for await (const event of stream) texts.push(textOf(event) ?? "");
  return texts;
}

// Upstream answers once the client of the endless answer to this prompt has left, in time.
async function checkClosed(prompt) {
  const messages = saying(prompt);
  const made = await client.chat.completions.create({ model: "was-closed", messages });
  assert.equal(made.choices[0].message.content, "closed");
}

async function refusal(kind, body, options) {
  try {
    await client.chat.completions.create({ messages, ...body }, options);
  } catch (error) {
    assert.equal(error.constructor.name, kind);
    return error;
  }
  assert.fail("no error");
}

async function failsMidway(model) {
  const texts = [];
  try {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) texts.push(chunk.choices[0].delta.content);
  } catch (error) {
    // What a connection that broke throws is none of these; here the error was told.
    assert.equal(error.constructor.name, "APIError", error);
    assert.deepEqual(texts, ["one", " two"]);
    return;
  }
  assert.fail(`no error behind ${texts}`);
}

const features = {
  "chat": async () => {
    const made = await client.chat.completions.create({ model, messages });
    assert.equal(made.choices[0].message.content, ANSWER);
    assert.equal(made.usage.total_tokens, 18);
  },
  "chat, streamed": async () => {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    const texts = await collect(stream, (chunk) => {
      assert.equal(chunk.usage ?? null, null);
      return chunk.choices[0].delta.content;
    });
    assert.equal(texts.join(""), ANSWER);
    assert(texts.length > 5);
  },
  "chat, streamed, with usage": async () => {
    const stream = await client.chat.completions.create({
      model, messages, stream: true, stream_options: { include_usage: true },
    });
    const totals = await collect(stream, (chunk) => chunk.usage?.total_tokens);
    assert.equal(totals.at(-1), 18);
  },
  "tools": async () => {
    // The library's own loop: it calls the function, and asks again with its result.
    const calls = [];
    const called = (given) => { calls.push(given); return "sunny"; };
    const forecast = { name: "forecast", parameters, parse: JSON.parse, function: called };
    const runner = client.chat.completions.runTools({
      model, messages, tools: [{ type: "function", function: forecast }],
    });
    assert.equal(await runner.finalContent(), "You said: sunny");
    assert.deepEqual(calls, [FITTING]);
  },
  "tools, streamed": async () => {
    const stream = client.chat.completions.stream({ model, messages, tools });
    const final = await stream.finalChatCompletion();
    const [call] = final.choices[0].message.tool_calls;
    assert.equal(call.function.name, "forecast");
    assert.deepEqual(JSON.parse(call.function.arguments), FITTING);
  },
  "structured output": async () => {
    const json_schema = { name: "trip", strict: true, schema: parameters };
    const made = await client.chat.completions.parse({
      model, messages, response_format: { type: "json_schema", json_schema },
    });
    assert.deepEqual(JSON.parse(made.choices[0].message.content), FITTING);
  },
  "image in a message": async () => {
    const url = `data:image/png;base64,${PICTURE.toString("base64")}`;
    const content = [{ type: "text", text: "Look:" }, { type: "image_url", image_url: { url } }];
    const made = await client.chat.completions.create({ model, messages: saying(content) });
    assert.equal(made.choices[0].message.content, `You said: Look: ${sha256(PICTURE)}`);
  },
  "many at once": async () => {
    const numbers = Array.from({ length: 30 }, (_, number) => number);
    const prompts = numbers.map((number) => `number ${number} `.repeat(number + 1));
    const answers = await Promise.all(prompts.map(async (content) => {
      const stream = await client.chat.completions.create({
        model, messages: saying(content), stream: true,
      });
      return (await collect(stream, (chunk) => chunk.choices[0].delta.content)).join("");
    }));
    assert.deepEqual(answers, prompts.map((prompt) => `You said: ${prompt}`));
  },
  "completions": async () => {
    const made = await client.completions.create({ model, prompt: PROMPT });
    assert.equal(made.choices[0].text, ANSWER);
  },
  "responses": async () => {
    const made = await client.responses.create({ model, input: PROMPT });
    assert.equal(made.output_text, ANSWER);
  },
  "responses, streamed": async () => {
    const stream = client.responses.stream({ model, input: PROMPT });
    const kinds = await collect(stream, (event) => event.type);
    assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
    assert.equal((await stream.finalResponse()).output_text, ANSWER);
  },
  "responses, tools": async () => {
    const tool = { type: "function", name: "forecast", parameters, strict: true };
    const made = await client.responses.create({ model, input: PROMPT, tools: [tool] });
    assert.deepEqual(JSON.parse(made.output[0].arguments), FITTING);
  },
  "embeddings": async () => {
    const made = await client.embeddings.create({ model, input: ["a", "abc"] });
    const vectors = made.data.map((each) => [...each.embedding]);
    assert.deepEqual(vectors, [[1, 0.5, -1.25], [3, 0.5, -1.25]]);
  },
  "moderations": async () => {
    const made = await client.moderations.create({ input: ["peace", "violence"] });
    assert.deepEqual(made.results.map((result) => result.flagged), [false, true]);
  },
  "models": async () => {
    const names = await collect(await client.models.list(), (each) => each.id);
    assert(names.includes(model), names.join());
  },
  "images": async () => {
    const made = await client.images.generate({ model, prompt: PROMPT });
    assert.deepEqual(Buffer.from(made.data[0].b64_json, "base64"), sound(PROMPT));
  },
  "images, edited": async () => {
    const image = await toFile(PICTURE, "a.png", { type: "image/png" });
    const made = await client.images.edit({ model, image, prompt: PROMPT });
    const wanted = Buffer.concat([PICTURE, Buffer.from(PROMPT)]);
    assert.deepEqual(Buffer.from(made.data[0].b64_json, "base64"), wanted);
  },
  "transcription": async () => {
    const made = await client.audio.transcriptions.create({ model, file: await recording() });
    assert.equal(made.text, heard);
  },
  "transcription, streamed": async () => {
    const stream = await client.audio.transcriptions.create({
      model, file: await recording(), stream: true,
    });
    const texts = await collect(stream, (event) => event.delta);
    assert.equal(texts.join(""), heard);
  },
  "translation": async () => {
    const made = await client.audio.translations.create({ model, file: await recording() });
    assert.equal(made.text, `In English: ${sha256(RECORDING)}`);
  },
  "speech, as it comes": async () => {
    const response = await client.audio.speech.create({ model, voice: "alloy", input: PROMPT });
    const arrived = [];
    for await (const piece of response.body) arrived.push([performance.now(), piece]);
    assert.deepEqual(Buffer.concat(arrived.map(([, piece]) => piece)), sound(PROMPT));
    const gapMs = arrived.at(-1)[0] - arrived[0][0];
    assert(gapMs > SPEECH_GAP_MS, `all of it came within ${gapMs} ms`);
  },
  "cancelled midway": async () => {
    const content = "node";
    const stream = await client.chat.completions.create({
      model: "endless", messages: saying(content), stream: true,
    });
    for await (const chunk of stream) {
      assert.equal(chunk.choices[0].delta.content, "one");
      break; // which aborts the request
    }
    await checkClosed(content);
  },
  "speech, cancelled midway": async () => {
    const input = "node speaks";
    const leaving = new AbortController();
    const response = await client.audio.speech.create(
      { model: "endless", voice: "alloy", input }, { signal: leaving.signal },
    );
    await response.body.getReader().read();
    leaving.abort();
    await checkClosed(input);
  },
  "unknown model": async () => {
    const error = await refusal("NotFoundError", { model: "no-such-model" });
    assert.equal(error.code, "model_not_found");
  },
  "rate limit": async () => {
    const error = await refusal("RateLimitError", { model: "busy" });
    assert.equal(error.headers.get("retry-after"), "7");
    assert.equal(error.code, "rate_limit_exceeded");
  },
  "wrong token": async () => {
    const headers = { Authorization: "Bearer not-a-token-of-anybody" };
    await refusal("AuthenticationError", { model }, { headers });
  },
  "upstream refuses the key": async () => {
    const error = await refusal("InternalServerError", { model: "wrong-key" });
    assert.equal(error.code, "upstream_auth");
  },
  "error midway": () => failsMidway("broken-midway"),
  "upstream lost midway": () => failsMidway("cut-midway"),
};

for (const [name, feature] of Object.entries(features)) {
  const begunMs = performance.now();
  try {
    await feature();
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`FAILED ${name}: ${String(error).replaceAll(/\s+/g, " ").slice(0, 400)}`);
    console.error(error);
  }
  console.error(`${name}: ${Math.round(performance.now() - begunMs)} ms`);
}
