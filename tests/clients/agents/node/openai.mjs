// OpenAI's SDK, whole and streamed, with a tool loop.

import OpenAI from 'openai';
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

const client = new OpenAI({ baseURL: V1, apiKey: TOKEN, maxRetries: 0 });
const asked = (text) => [{ role: 'user', content: text }];

const whole = await client.chat.completions.create({ model: MODEL, messages: asked(CHAT) });
let streamed = '';
const pieces = await client.chat.completions.create({
  model: MODEL,
  messages: asked(CHAT),
  stream: true,
});
for await (const piece of pieces) streamed += piece.choices[0]?.delta?.content ?? '';
const runner = client.chat.completions.runTools({
  model: MODEL,
  messages: asked(TOOLS),
  tools: [
    {
      type: 'function',
      function: { name: 'weather', parse: JSON.parse, parameters: CITY, function: weather },
    },
  ],
});
const formed = await client.chat.completions.create({
  model: MODEL,
  messages: asked(STRUCTURED),
  response_format: {
    type: 'json_schema',
    json_schema: { name: 'place', schema: PLACE, strict: true },
  },
});
const vector = await client.embeddings.create({ model: MODEL, input: 'Paris' });
report({
  chat: whole.choices[0].message.content,
  stream: streamed,
  tools: await runner.finalContent(),
  structured: JSON.parse(formed.choices[0].message.content),
  embeddings: vector.data[0].embedding,
});
