"""OpenAI's SDK, whole and streamed."""

import openai
from shared import CHAT, MODEL, STRUCTURED, TOKEN, V1, Place, report

client = openai.OpenAI(base_url=V1, api_key=TOKEN, max_retries=0)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


whole = client.chat.completions.create(model=MODEL, messages=asked(CHAT))
with client.chat.completions.stream(model=MODEL, messages=asked(CHAT)) as stream:
    streamed = stream.get_final_completion()
parsed = client.chat.completions.parse(
    model=MODEL, messages=asked(STRUCTURED), response_format=Place
)
vector = client.embeddings.create(model=MODEL, input="Paris").data[0].embedding
report(
    chat=whole.choices[0].message.content,
    stream=streamed.choices[0].message.content,
    structured=parsed.choices[0].message.parsed.model_dump(),
    embeddings=vector,
)
