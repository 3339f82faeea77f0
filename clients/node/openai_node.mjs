// The official Node client.
import OpenAI, { toFile } from "openai";
import { API_KEY, BASE_URL, MODEL, hold, run } from "./checks.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const messages = [{ role: "user", content: "hello" }];

await run({
  "a chat is answered": async () => {
    const got = await client.chat.completions.create({ model: MODEL, messages });
    hold(got.choices[0].message.content);
  },
  "a stream comes in pieces": async () => {
    let text = "";
    const stream = await client.chat.completions.create({ model: MODEL, messages, stream: true });
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    hold(text);
  },
  "a base URL without /v1 works": async () => {
    const other = new OpenAI({ baseURL: BASE_URL.replace(/\/v1$/, ""), apiKey: API_KEY });
    hold((await other.chat.completions.create({ model: MODEL, messages })).choices);
  },
  "models are listed": async () => {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    hold(found.includes(MODEL));
  },
  "responses are refused with words": async () => {
    const error = await client.responses.create({ model: MODEL, input: "x" }).catch((e) => e);
    hold(error.status === 404 && /chat completions/.test(error.message), error.message);
  },
  "an upload that is refused early gets its answer": async () => {
    const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: "pk_wrong", maxRetries: 0 });
    const file = await toFile(Buffer.alloc(40 * 1024 * 1024, "x"), "in.jsonl");
    const error = await stranger.files.create({ file, purpose: "batch" }).catch((e) => e);
    hold(error.status === 401, String(error));
  },
  "a file becomes a batch": async () => {
    const line = { custom_id: "a", url: "/v1/chat/completions", method: "POST", body: { model: MODEL, messages } };
    const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line)), "in.jsonl"), purpose: "batch" });
    let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
    const until = Date.now() + 120_000;
    while (!["completed", "failed"].includes(batch.status) && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      batch = await client.batches.retrieve(batch.id);
    }
    hold(batch.status === "completed", batch.status);
    hold((await (await client.files.content(batch.output_file_id)).text()).includes('"custom_id":"a"'));
  },
});
