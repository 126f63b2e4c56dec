"""smolagents: the code agent, with its own tags and with fences."""

from shared import MODEL, TOKEN, V1, report
from smolagents import CodeAgent, LogLevel, OpenAIModel

model = OpenAIModel(model_id=MODEL, api_base=V1, api_key=TOKEN)


def code(question: str, **more: object) -> dict[str, object]:
    """What the agent ran in each step, and its answer."""
    agent = CodeAgent(tools=[], model=model, verbosity_level=LogLevel.OFF, **more)
    answer = agent.run(question)
    ran = [step.code_action for step in agent.memory.steps if hasattr(step, "code_action")]
    return {"ran": [one for one in ran if one], "answer": answer}


report(
    tags=code("scenario tags. Go."),
    fences=code("scenario fences. Go.", code_block_tags="markdown"),
)
