"""crewAI: a crew whose agent has a tool, and its model with a form."""

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report
from shared import weather as look_up

model = LLM(model=f"openai/{MODEL}", base_url=V1, api_key=TOKEN)


@tool("weather")
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def said(question: str, tools: list[object]) -> str:
    agent = Agent(role="assistant", goal="answer", backstory="none", llm=model, tools=tools)
    task = Task(description=question, expected_output="an answer", agent=agent)
    return Crew(agents=[agent], tasks=[task], tracing=False).kickoff().raw


report(
    chat=model.call(CHAT),
    tools=said(TOOLS, [weather]),
    structured=model.call(STRUCTURED, response_model=Place).model_dump(),
)
