"""The agents SDK of OpenAI, with its model for chat completions."""

import asyncio

from agents import (
    Agent,
    AsyncOpenAI,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report, weather

set_tracing_disabled(True)
model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=V1, api_key=TOKEN, max_retries=0))


async def main() -> None:
    plain = Agent("assistant", model=model)
    helped = Agent("assistant", model=model, tools=[function_tool(weather)])
    formed = Agent("assistant", model=model, output_type=Place)
    running = Runner.run_streamed(helped, TOOLS)
    async for _ in running.stream_events():
        pass
    report(
        chat=(await Runner.run(plain, CHAT)).final_output,
        tools=(await Runner.run(helped, TOOLS)).final_output,
        tools_stream=running.final_output,
        structured=(await Runner.run(formed, STRUCTURED)).final_output.model_dump(),
    )


asyncio.run(main())
