"""Capture activations into one store, by several writers. Set the constants, replace ``hidden_states``.

::

    python capture.py create STORE TRACES                        # once
    python capture.py write STORE TRACES --part 0 --parts 16     # each of the 16, at the same time or not

The writer that ends last finishes the store; until then ``skillaxes`` refuses to open it. See capture_array.sh.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

import skillaxes

MODEL = "stand-in"  # name and revision of your model, as the report will show it
LAYERS = (7, 15, 23)  # the model's own numbers, in the order of the columns
HIDDEN = 64  # width of a layer
CHUNK_ROWS = 256  # rows of a file: 8 to 32 MiB are good (rows x layers x HIDDEN x 2 bytes)
BATCH = 8  # texts in one forward pass


def hidden_states(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream after each of ``LAYERS``, and which tokens count.

    Shapes: (texts, layers, tokens, HIDDEN) and (texts, tokens). This stand-in makes numbers of the texts' bytes:
    replace its body by your model. With transformers, for instance::

        batch = tokenizer(texts, return_tensors="pt", padding=True).to("cuda")
        with torch.inference_mode():
            states = model(**batch, output_hidden_states=True).hidden_states  # the first one is the embedding
        return torch.stack([states[layer + 1] for layer in LAYERS], dim=1), batch["attention_mask"]
    """
    encoded = [torch.frombuffer(bytearray(text.encode()[:200] or b" "), dtype=torch.uint8) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
    waves = torch.arange(1, HIDDEN + 1) / HIDDEN
    states = [torch.sin(tokens[:, :, None] * waves * (layer + 1)) for layer in LAYERS]
    return torch.stack(states, dim=1), (tokens > 0).int()


def rows_of(texts: Sequence[str]) -> torch.Tensor:
    """One row a text, (texts, layers, HIDDEN) float32: the mean over the tokens that count."""
    states, mask = hidden_states(texts)
    weight = mask[:, None, :, None].float()
    return ((states.float() * weight).sum(dim=2) / weight.sum(dim=2)).cpu()


def create(store: Path, traces: Path) -> None:
    """Make the store with room for every line of ``traces``."""
    with traces.open("rb") as lines:
        n_rows = sum(1 for _ in lines)
    skillaxes.create_store(
        store,
        n_rows=n_rows,
        layer_ids=LAYERS,
        hidden=HIDDEN,
        dtype="bfloat16",
        chunk_rows=CHUNK_ROWS,
        shard_size=0,
        model=MODEL,
        hook="residual stream after the layer",
        pooling="mean over the tokens",
    )


def write(store: Path, traces: Path, part: int, parts: int) -> None:
    """Write the rows of one part: parts begin at whole files."""
    with traces.open("rb") as lines:
        n_rows = sum(1 for _ in lines)
    n_files = -(-n_rows // CHUNK_ROWS)
    start, stop = (min(n_files * at // parts * CHUNK_ROWS, n_rows) for at in (part, part + 1))
    if start == stop:  # more parts than files
        return
    with traces.open("rb") as lines, skillaxes.open_writer(store, start, stop) as writer:
        mine = islice(lines, start, stop)
        while batch := [json.loads(line) for line in islice(mine, BATCH)]:
            # The chat messages of "input", then "output", as `skillaxes label` shows a trace.
            texts = ["\n".join([*(said["content"] for said in one["input"]), one["output"]]) for one in batch]
            writer.append(rows_of(texts), ids=[one["id"] for one in batch])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("create", "write"))
    parser.add_argument("store", type=Path)
    parser.add_argument("traces", type=Path, help="a .jsonl file: id, input, output")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    given = parser.parse_args()
    if given.command == "create":
        create(given.store, given.traces)
    else:
        write(given.store, given.traces, given.part, given.parts)


if __name__ == "__main__":
    main()
