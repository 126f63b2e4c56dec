"""instructor, by tool calls, JSON and a schema, and in Anthropic's dialect."""

import anthropic
import instructor
import openai
from shared import MODEL, STRUCTURED, TOKEN, URL, V1, Place, report

ASKED = [{"role": "user", "content": STRUCTURED}]
chat = openai.OpenAI(base_url=V1, api_key=TOKEN, max_retries=0)
messages = anthropic.Anthropic(base_url=URL, api_key=TOKEN, max_retries=0)
results: dict[str, object] = {}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(chat, mode=mode)
    made = client.chat.completions.create(model=MODEL, messages=ASKED, response_model=Place)
    results[f"structured_by_{mode.value}"] = made.model_dump()
client = instructor.from_anthropic(messages)
made = client.messages.create(model=MODEL, messages=ASKED, response_model=Place, max_tokens=512)
results["anthropic_structured"] = made.model_dump()
report(**results)
