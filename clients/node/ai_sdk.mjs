// Vercel AI SDK, by its OpenAI provider and by the one for compatible services.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { API_KEY, BASE_URL, MODEL, hold, run } from "./checks.mjs";

const openai = createOpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const compatible = createOpenAICompatible({ name: "penstock", baseURL: BASE_URL, apiKey: API_KEY });

await run({
  "openai.chat answers": async () => {
    hold((await generateText({ model: openai.chat(MODEL), prompt: "hello" })).text);
  },
  "the compatible provider answers": async () => {
    hold((await generateText({ model: compatible(MODEL), prompt: "hello" })).text);
  },
  "a stream comes in pieces": async () => {
    let text = "";
    for await (const piece of streamText({ model: compatible(MODEL), prompt: "hello" }).textStream) text += piece;
    hold(text);
  },
  "headers of Penstock pass": async () => {
    const headers = { "x-penstock-priority": "low", "x-penstock-join": "true" };
    hold((await generateText({ model: compatible(MODEL), prompt: "hello", headers })).text);
  },
  "the default, responses, is refused with the switch": async () => {
    const error = await generateText({ model: openai(MODEL), prompt: "hello", maxRetries: 0 }).catch((e) => e);
    hold(/openai\.chat/.test(String(error.message)), String(error));
  },
});
