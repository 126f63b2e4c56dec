// The AI SDK of Vercel, with its providers for servers like OpenAI's and for Anthropic's API.

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { Output, embed, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import {
  CHAT,
  CITY,
  MODEL,
  PLACE,
  STRUCTURED,
  TOKEN,
  TOOLS,
  V1,
  report,
  weather,
} from './shared.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const like = createOpenAICompatible({
  name: 'gateway',
  baseURL: V1,
  apiKey: TOKEN,
  supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL: V1, authToken: TOKEN });
const tools = {
  weather: tool({ description: 'The weather', inputSchema: jsonSchema(CITY), execute: weather }),
};

async function ask(model) {
  const whole = await generateText({ model, prompt: CHAT, maxRetries: 0 });
  let streamed = '';
  for await (const piece of streamText({ model, prompt: CHAT, maxRetries: 0 }).textStream) {
    streamed += piece;
  }
  const looped = await generateText({
    model,
    prompt: TOOLS,
    tools,
    stopWhen: stepCountIs(3),
    maxRetries: 0,
  });
  const formed = await generateText({
    model,
    prompt: STRUCTURED,
    output: Output.object({ schema: jsonSchema(PLACE) }),
    maxRetries: 0,
  });
  return { chat: whole.text, stream: streamed, tools: looped.text, structured: formed.output };
}

const results = await ask(like(MODEL));
for (const [name, result] of Object.entries(await ask(anthropic(MODEL)))) {
  results[`anthropic_${name}`] = result;
}
const { embedding } = await embed({
  model: like.textEmbeddingModel(MODEL),
  value: 'Paris',
  maxRetries: 0,
});
report({ ...results, embeddings: embedding });
