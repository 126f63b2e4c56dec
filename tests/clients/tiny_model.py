"""A language model of half a megabyte: two llama layers of random weights in a GGUF file.

    python tiny_model.py FILE

Its output is noise, and the same for the same seed. A real inference server loads it in
milliseconds and uses its real protocol, so that tests cover a real server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

# Common pieces first: a byte-fallback tokenizer needs no more, and the noise is half readable.
PIECES = (
    "▁ e t a o i n s r h l d u c m f y w g p b v k j x ▁the ▁a ▁of ▁model ▁gate ▁key ▁hello . , ! "
    '? : { } [ ] "'
).split(" ")

# The chat prompt for the model. Tools, tool calls and results all appear, so that a lost field
# changes the prompt.
CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|tools|>' }}{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}\
{{ 'Call one as <tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call>\\n' }}{% endif -%}
{%- for m in messages -%}
{{ '<|' + m['role'] + '|>' }}\
{% if m['content'] is string %}{{ m['content'] }}\
{% elif m['content'] %}{{ m['content'] | tojson }}{% endif %}\
{%- for c in m['tool_calls'] or [] %}\
{{ '<tool_call>{"name": ' + (c['function']['name'] | tojson) + \
', "arguments": ' + (c['function']['arguments'] | tojson) + '}</tool_call>' }}\
{%- endfor -%}
{{ '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif -%}
"""


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, in floats; heads must divide the width."""

    width: int = 64
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    context: int = 2048


def vocabulary() -> tuple[list[bytes], list[int], list[float]]:
    """Tokens, their kinds and scores: three control tokens, the 256 bytes, and the pieces above."""
    kinds = gguf.TokenType
    control = [(b"<unk>", kinds.UNKNOWN), (b"<s>", kinds.CONTROL), (b"</s>", kinds.CONTROL)]
    raw = [(f"<0x{byte:02X}>".encode(), kinds.BYTE) for byte in range(256)]
    words = [(piece.encode(), kinds.NORMAL) for piece in PIECES]
    rows = control + raw + words
    scores = [0.0] * (len(control) + len(raw)) + [-float(rank) for rank in range(len(words))]
    return [token for token, _ in rows], [int(kind) for _, kind in rows], scores


def tensors(shape: Shape, tokens: int, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of the network by its GGUF name; norms are ones, the others are seeded noise."""
    source = np.random.default_rng(seed)

    def noise(rows: int, columns: int) -> np.ndarray:
        return source.normal(0.0, 0.06, (rows, columns)).astype(np.float32)

    ones = np.ones(shape.width, dtype=np.float32)
    found = {
        "token_embd.weight": noise(tokens, shape.width),
        "output.weight": noise(tokens, shape.width),
        "output_norm.weight": ones,
    }
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        found |= {
            at + name + ".weight": noise(shape.width, shape.width)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        }
        found |= {
            at + name + ".weight": noise(shape.hidden, shape.width)
            for name in ("ffn_gate", "ffn_up")
        }
        found |= {
            at + "ffn_down.weight": noise(shape.width, shape.hidden),
            at + "attn_norm.weight": ones,
            at + "ffn_norm.weight": ones,
        }
    return found


def write(path: Path, shape: Shape = Shape(), seed: int = 20261) -> None:
    """Writes the model to `path`. The same shape and seed give the same bytes."""
    tokens, kinds, scores = vocabulary()
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name("tiny-random")
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.width)
    out.add_feed_forward_length(shape.hidden)
    out.add_block_count(shape.layers)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.heads)
    out.add_rope_dimension_count(shape.width // shape.heads)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_scores(scores)
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in tensors(shape, len(tokens), seed).items():
        out.add_tensor(name, tensor)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
