"""Semantic Kernel: the chat service, an agent with a function, and embeddings."""

import asyncio

from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report
from shared import weather as look_up

client = AsyncOpenAI(base_url=V1, api_key=TOKEN, max_retries=0)
chat = OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)


class Weather:
    """A plugin."""

    @kernel_function
    def weather(self, city: str) -> str:
        """The weather in a city."""
        return look_up(city)


def history(text: str) -> ChatHistory:
    made = ChatHistory()
    made.add_user_message(text)
    return made


async def main() -> None:
    plain = OpenAIChatPromptExecutionSettings()
    formed = OpenAIChatPromptExecutionSettings(response_format=Place)
    agent = ChatCompletionAgent(service=chat, name="assistant", plugins=[Weather()])
    pieces = [
        str(piece)
        async for piece in chat.get_streaming_chat_message_content(history(CHAT), settings=plain)
    ]
    embedder = OpenAITextEmbedding(ai_model_id=MODEL, async_client=client)
    said = await chat.get_chat_message_content(history(STRUCTURED), settings=formed)
    vectors = await embedder.generate_embeddings(["Paris"])
    report(
        chat=str(await chat.get_chat_message_content(history(CHAT), settings=plain)),
        stream="".join(pieces),
        tools=str((await agent.get_response(messages=TOOLS)).message),
        structured=Place.model_validate_json(str(said)).model_dump(),
        embeddings=[float(number) for number in vectors[0]],
    )


asyncio.run(main())
