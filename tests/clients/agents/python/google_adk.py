"""Google's ADK, with its model for litellm."""

import asyncio

from google.adk.agents import LlmAgent
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report, weather

model = LiteLlm(model=f"hosted_vllm/{MODEL}", api_base=V1, api_key=TOKEN)


async def said(question: str, **more: object) -> str:
    agent = LlmAgent(name="assistant", model=model, **more)
    runner = InMemoryRunner(agent=agent, app_name="tests")
    session = await runner.session_service.create_session(app_name="tests", user_id="ada")
    asked = types.Content(role="user", parts=[types.Part(text=question)])
    text = ""
    async for event in runner.run_async(user_id="ada", session_id=session.id, new_message=asked):
        if event.is_final_response() and event.content:
            text = "".join(part.text or "" for part in event.content.parts)
    return text


async def main() -> None:
    report(
        chat=await said(CHAT),
        tools=await said(TOOLS, tools=[weather]),
        structured=Place.model_validate_json(
            await said(STRUCTURED, output_schema=Place)
        ).model_dump(),
    )


asyncio.run(main())
