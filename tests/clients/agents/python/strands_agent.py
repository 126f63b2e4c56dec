"""strands, in both dialects."""

from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, URL, V1, Place, report, weather
from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.openai import OpenAIModel

chat = OpenAIModel(client_args={"base_url": V1, "api_key": TOKEN}, model_id=MODEL)
messages = AnthropicModel(
    client_args={"base_url": URL, "api_key": TOKEN}, model_id=MODEL, max_tokens=512
)


def said(model: object, text: str, **more: object) -> str:
    done = Agent(model=model, callback_handler=None, **more)(text)
    return "".join(part.get("text", "") for part in done.message["content"])


def place(model: object) -> dict[str, str]:
    done = Agent(model=model, callback_handler=None)(STRUCTURED, structured_output_model=Place)
    return done.structured_output.model_dump()


report(
    stream=said(chat, CHAT),
    tools=said(chat, TOOLS, tools=[tool(weather)]),
    structured=place(chat),
    anthropic_stream=said(messages, CHAT),
    anthropic_tools=said(messages, TOOLS, tools=[tool(weather)]),
    anthropic_structured=place(messages),
)
