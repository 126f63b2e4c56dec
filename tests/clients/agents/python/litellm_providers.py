"""litellm, by the prefixes of its providers."""

import litellm
from shared import CHAT, MODEL, STRUCTURED, TOKEN, URL, V1, Place, report

BASES = {
    "openai": V1,
    "hosted_vllm": V1,
    "litellm_proxy": V1,
    "lm_studio": V1,
    "deepseek": V1,
    "anthropic": URL,
}


def ask(prefix: str, question: str = CHAT, **more: object) -> object:
    return litellm.completion(
        f"{prefix}/{MODEL}",
        [{"role": "user", "content": question}],
        api_base=BASES[prefix],
        api_key=TOKEN,
        **more,
    )


results: dict[str, object] = {}
for name in BASES:
    results[f"{name}_chat"] = ask(name).choices[0].message.content
    streamed = ask(name, stream=True)
    results[f"{name}_stream"] = "".join(
        piece.choices[0].delta.content or "" for piece in streamed if piece.choices
    )
for name in ("openai", "hosted_vllm"):
    formed = ask(name, STRUCTURED, response_format=Place).choices[0].message.content
    results[f"{name}_structured"] = Place.model_validate_json(formed).model_dump()
vector = litellm.embedding(f"openai/{MODEL}", ["Paris"], api_base=V1, api_key=TOKEN)
results["embeddings"] = vector.data[0]["embedding"]
report(**results)
