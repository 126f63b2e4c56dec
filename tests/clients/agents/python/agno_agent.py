"""agno, with its model for servers like OpenAI's and with its model for Anthropic's API."""

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.openai.like import OpenAILike
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, URL, V1, Place, report, weather

chat = OpenAILike(id=MODEL, base_url=V1, api_key=TOKEN)
claude = Claude(id=MODEL, api_key=TOKEN, client_params={"base_url": URL})


def agent(model: object = chat, **more: object) -> Agent:
    return Agent(model=model, telemetry=False, **more)


report(
    chat=agent().run(CHAT).content,
    stream="".join(piece.content or "" for piece in agent().run(CHAT, stream=True)),
    tools=agent(tools=[weather]).run(TOOLS).content,
    structured=agent(output_schema=Place).run(STRUCTURED).content.model_dump(),
    anthropic_chat=agent(claude).run(CHAT).content,
    anthropic_tools=agent(claude, tools=[weather]).run(TOOLS).content,
)
