"""pydantic-ai, in both dialects."""

import asyncio

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, URL, V1, Place, report, weather

chat = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=V1, api_key=TOKEN))
messages = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key=TOKEN))


async def streamed(model: object) -> str:
    async with Agent(model).run_stream(CHAT) as running:
        return await running.get_output()


async def asked(model: object) -> dict[str, object]:
    helped = Agent(model, tools=[weather])
    by_tool = Agent(model, output_type=Place)
    return {
        "chat": (await Agent(model).run(CHAT)).output,
        "stream": await streamed(model),
        "tools": (await helped.run(TOOLS)).output,
        "structured": (await by_tool.run(STRUCTURED)).output.model_dump(),
    }


async def main() -> None:
    native = Agent(chat, output_type=NativeOutput(Place))
    results = await asked(chat)
    results["structured_native"] = (await native.run(STRUCTURED)).output.model_dump()
    for name, result in (await asked(messages)).items():
        results[f"anthropic_{name}"] = result
    report(**results)


asyncio.run(main())
