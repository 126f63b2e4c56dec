// Anthropic's SDK, whole and streamed, with a tool loop.

import Anthropic from '@anthropic-ai/sdk';
import { CHAT, CITY, MODEL, TOKEN, TOOLS, URL, report, weather } from './shared.mjs';

const client = new Anthropic({ baseURL: URL, authToken: TOKEN, apiKey: null, maxRetries: 0 });
const asked = (text) => ({
  model: MODEL,
  max_tokens: 512,
  messages: [{ role: 'user', content: text }],
});

const whole = await client.messages.create(asked(CHAT));
const streamed = await client.messages.stream(asked(CHAT)).finalText();
const tools = [{ name: 'weather', description: 'The weather', input_schema: CITY }];
const first = await client.messages.create({ ...asked(TOOLS), tools });
const use = first.content.find((block) => block.type === 'tool_use');
const second = await client.messages.create({
  ...asked(TOOLS),
  tools,
  messages: [
    ...asked(TOOLS).messages,
    { role: 'assistant', content: first.content },
    {
      role: 'user',
      content: [{ type: 'tool_result', tool_use_id: use.id, content: weather(use.input) }],
    },
  ],
});
report({ chat: whole.content[0].text, stream: streamed, tools: second.content[0].text });
