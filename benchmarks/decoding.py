"""Users per second of the vectorised beam search beside a plain one, same model, same results.

    python benchmarks/decoding.py [--users=32] [--beam_width=50] [--threads=2]

The plain search is the one most released code has: dictionaries walked in Python for one user and one beam at a time,
with the whole context run again for every beam.
"""

from __future__ import annotations

import argparse
import time

import torch

from recbole_vsid.config import Config
from recbole_vsid.decoding.beam import constrained_beam_search
from recbole_vsid.model.vlsid import squash
from recbole_vsid.quick_start import build_data, build_model


def plain_search(model, stream, codes, beam_width):
    """Ranked items of one user; ``codes``: tuple of tokens → item."""
    allowed = {}
    for code in codes:
        for position, token in enumerate(code):
            allowed.setdefault(code[:position], []).append(token)
    beams, finished = [((), 0.0)], []
    while beams:
        rows = torch.stack([torch.cat([stream, torch.tensor(prefix, dtype=torch.long)]) for prefix, _ in beams])
        logits = squash(model.head(model.transformer(model.token_embedding(rows))[:, -1]))
        candidates = []
        for (prefix, score), row in zip(beams, logits):
            tokens = torch.tensor(sorted(set(allowed[prefix])))
            total = row[tokens].logsumexp(0) if not prefix else row.logsumexp(0)
            candidates += [(prefix + (t,), score + s) for t, s in zip(tokens.tolist(), (row[tokens] - total).tolist())]
        kept = sorted(candidates, key=lambda candidate: -candidate[1])[:beam_width]
        finished += [(codes[prefix], score) for prefix, score in kept if prefix in codes]
        beams = [(prefix, score) for prefix, score in kept if prefix not in codes]
    return [item for item, _ in sorted(finished, key=lambda found: -found[1])]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--beam_width", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {"tokenizer": "rkmeans", "beam_width": options.beam_width, "show_progress": False, "seed": 1}
    config = Config("VLSID", "ml-100k", config_dict={**settings, "enable_amp": False})
    _, loaders = build_data(config)
    model, _ = build_model(config, loaders)
    model.eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)  # an untrained head scores all tokens alike
    table = model.semantic_ids
    flat = table.flat_codes()
    codes = {tuple(flat[item, : table.lengths[item]].tolist()): item for item in range(1, table.n_items)}

    rows = next(iter(loaders[2]))[0][: options.users]
    items, lengths = rows[model.ITEM_SEQ], rows[model.ITEM_SEQ_LEN]
    tokens, stream_lengths = model.token_stream(items, lengths, room=model.codes.size(1))

    started = time.perf_counter()
    plain = [plain_search(model, tokens[u, : stream_lengths[u]], codes, options.beam_width) for u in range(len(items))]
    plain_seconds = time.perf_counter() - started
    started = time.perf_counter()
    ours, _ = constrained_beam_search(model.start_decoding(rows), model.trie, options.beam_width)
    seconds = time.perf_counter() - started
    model.bf16 = True
    started = time.perf_counter()
    model.topk(rows, options.beam_width)
    bf16_seconds = time.perf_counter() - started

    same = sum(row[:10] == fast[:10] for row, fast in zip(plain, ours.tolist()))
    print(
        f"beam {options.beam_width}, {len(items)} users, mean context {stream_lengths.float().mean():.0f} tokens, CPU"
    )
    print(f"plain search        {len(items) / plain_seconds:8.1f} users/s")
    print(f"vectorised, fp32    {len(items) / seconds:8.1f} users/s  {plain_seconds / seconds:6.1f}x")
    print(f"vectorised, bf16    {len(items) / bf16_seconds:8.1f} users/s  {plain_seconds / bf16_seconds:6.1f}x")
    print(f"same first ten items (fp32): {same} of {len(items)} users")


if __name__ == "__main__":
    main()
