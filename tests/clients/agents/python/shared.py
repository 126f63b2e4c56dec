"""What the scripts of all clients share: where the gateway is, the questions, and the report."""

from __future__ import annotations

import json
import os

from pydantic import BaseModel

URL = os.environ["AGENT_URL"]
V1 = URL + "/v1"
TOKEN = os.environ["AGENT_TOKEN"]
MODEL = os.environ["AGENT_MODEL"]

CHAT = "scenario chat. What do you say?"
TOOLS = "scenario tools. What is the weather in Paris?"
STRUCTURED = "scenario structured. Describe Paris."


class Place(BaseModel):
    """A place, as the structured answers describe it."""

    city: str
    page: str
    picture: str


def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The name of the city.
    """
    return f"sunny in {city}"


def report(**results: object) -> None:
    """Prints the results as one line of JSON, the last line of the script."""
    print(json.dumps(results), flush=True)
