"""DSPy: a prediction with its own markers, and one with JSON."""

import dspy
from shared import MODEL, TOKEN, V1, report

model = dspy.LM(f"openai/{MODEL}", api_base=V1, api_key=TOKEN, cache=False, num_retries=0)
predict = dspy.Predict("question -> city, page, picture")


def place(question: str) -> dict[str, str]:
    done = predict(question=question)
    return {"city": done.city, "page": done.page, "picture": done.picture}


with dspy.context(lm=model, adapter=dspy.JSONAdapter()):
    structured = place("scenario structured. Describe Paris.")
with dspy.context(lm=model, adapter=dspy.ChatAdapter()):
    markers = place("scenario markers. Describe Paris.")
report(structured=structured, markers=markers)
