"""Anthropic's SDK, whole and streamed."""

import anthropic
from shared import CHAT, MODEL, STRUCTURED, TOKEN, URL, Place, report

client = anthropic.Anthropic(base_url=URL, auth_token=TOKEN, max_retries=0)


def asked(text: str) -> dict[str, object]:
    return {"model": MODEL, "max_tokens": 512, "messages": [{"role": "user", "content": text}]}


whole = client.messages.create(**asked(CHAT))
with client.messages.stream(**asked(CHAT)) as stream:
    streamed = "".join(stream.text_stream)
parsed = client.messages.parse(**asked(STRUCTURED), output_format=Place)
report(
    chat=whole.content[0].text,
    stream=streamed,
    structured=parsed.parsed_output.model_dump(),
)
