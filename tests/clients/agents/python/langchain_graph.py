"""LangChain's models of both dialects, and an agent of LangGraph."""

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from shared import CHAT, MODEL, STRUCTURED, TOKEN, TOOLS, URL, V1, Place, report, weather

chat = ChatOpenAI(base_url=V1, api_key=TOKEN, model=MODEL, max_retries=0)
messages = ChatAnthropic(base_url=URL, api_key=TOKEN, model=MODEL, max_retries=0)
# Without the check, the texts are sent as texts. With it, a tokenizer is fetched.
vectors = OpenAIEmbeddings(
    base_url=V1, api_key=TOKEN, model=MODEL, check_embedding_ctx_length=False
)


def agent(model: object) -> str:
    done = create_agent(model, [weather]).invoke({"messages": [("user", TOOLS)]})
    return done["messages"][-1].text


report(
    chat=chat.invoke(CHAT).text,
    stream="".join(piece.text for piece in chat.stream(CHAT)),
    tools=agent(chat),
    structured=chat.with_structured_output(Place).invoke(STRUCTURED).model_dump(),
    embeddings=vectors.embed_query("Paris"),
    anthropic_chat=messages.invoke(CHAT).text,
    anthropic_stream="".join(piece.text for piece in messages.stream(CHAT)),
    anthropic_tools=agent(messages),
    anthropic_structured=messages.with_structured_output(Place).invoke(STRUCTURED).model_dump(),
)
