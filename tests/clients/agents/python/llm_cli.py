"""`llm`, by its library, with a tool and a schema."""

import llm
from llm.default_plugins.openai_models import Chat
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report, weather

model = Chat(
    MODEL, model_name=MODEL, api_base=V1, supports_tools=True, supports_schema=True, can_stream=True
)
model.key = TOKEN
report(
    chat=model.prompt(CHAT, stream=False).text(),
    stream="".join(model.prompt(CHAT, stream=True)),
    tools=model.chain(TOOLS, tools=[llm.Tool.function(weather)]).text(),
    structured=Place.model_validate_json(
        model.prompt(STRUCTURED, schema=Place).text()
    ).model_dump(),
)
