"""LlamaIndex: the model for servers like OpenAI's, an agent, and embeddings."""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, V1, Place, report, weather

model = OpenAILike(
    model=MODEL,
    api_base=V1,
    api_key=TOKEN,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
    max_retries=0,
)
asked = [ChatMessage(role="user", content=CHAT)]
vectors = OpenAILikeEmbedding(model_name=MODEL, api_base=V1, api_key=TOKEN)


async def agent() -> str:
    return str(await FunctionAgent(tools=[weather], llm=model).run(TOOLS))


formed = model.as_structured_llm(Place).chat([ChatMessage(role="user", content=STRUCTURED)])
report(
    chat=model.chat(asked).message.content,
    stream="".join(piece.delta or "" for piece in model.stream_chat(asked)),
    tools=asyncio.run(agent()),
    structured=formed.raw.model_dump(),
    embeddings=vectors.get_text_embedding("Paris"),
)
