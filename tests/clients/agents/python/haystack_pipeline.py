"""Haystack: the generator, the agent and the embedder."""

from haystack.components.agents import Agent
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report, weather


def generator(**more: object) -> OpenAIChatGenerator:
    return OpenAIChatGenerator(
        api_key=Secret.from_token(TOKEN), model=MODEL, api_base_url=V1, max_retries=0, **more
    )


def ask(model: OpenAIChatGenerator, text: str) -> str:
    return model.run([ChatMessage.from_user(text)])["replies"][0].text


pieces: list[str] = []
ask(generator(streaming_callback=lambda piece: pieces.append(piece.content)), CHAT)
agent = Agent(chat_generator=generator(), tools=[create_tool_from_function(weather)])
formed = generator(generation_kwargs={"response_format": Place})
embedder = OpenAITextEmbedder(
    api_key=Secret.from_token(TOKEN), model=MODEL, api_base_url=V1, max_retries=0
)
report(
    chat=ask(generator(), CHAT),
    stream="".join(pieces),
    tools=agent.run([ChatMessage.from_user(TOOLS)])["messages"][-1].text,
    structured=Place.model_validate_json(ask(formed, STRUCTURED)).model_dump(),
    embeddings=embedder.run("Paris")["embedding"],
)
