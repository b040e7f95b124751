"""What packing saves and costs: for weights and optimizer states, drawn and trained.

    python tests/bench/compression.py [--steps 300] [--rounds 3] [--json FILE]

Prints a table in Markdown. CPU-seconds are those of this process, user and system, for 10^9 bytes of the file; of several
rounds the least counts. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ckptsync.options import Config, Transfer
from ckptsync.run import open_run
from ckptsync.transfer.sampling import best_shuffle
from ckptsync.transfer.source import scan
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

GB = 10**9
DRAWN = 16 << 20
"""Elements of a drawn tensor."""
TEXT = Path(__file__).parents[2] / "docs"
CONTEXT, WIDTH, LAYERS = 128, 384, 6


@dataclass(frozen=True, slots=True)
class Row:
    """One file; seconds are CPU for 10^9 bytes, and what is added to those of a save or restore without packing."""

    what: str
    mib: float
    shuffle: int
    kept: float
    save_s: float
    save_added_s: float
    restore_s: float
    restore_added_s: float


class Model(nn.Module):
    """A small language model over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 6, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores of the next byte."""
        length = tokens.shape[1]
        seen = self.embedding(tokens) + self.position(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.layers(seen, mask=mask, is_causal=True))


def train(steps: int) -> tuple[Model, torch.optim.AdamW, float]:
    """Teach the model this project's documentation; the model, its optimizer, and the last loss."""
    torch.manual_seed(0)
    text = b"\n".join(path.read_bytes() for path in sorted(TEXT.rglob("*.md")))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    loss = torch.zeros(())
    for _ in range(steps):
        starts = torch.randint(len(data) - CONTEXT - 1, (8,))
        batch = torch.stack([data[start : start + CONTEXT + 1] for start in starts])
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer, float(loss.detach())


def states(steps: int) -> Iterator[tuple[str, object]]:
    """What to save, by name."""
    torch.manual_seed(1)
    weights = torch.randn(DRAWN) * 0.02
    yield "weights fp32, drawn (normal)", {"weights": weights}
    yield "weights bf16, drawn (normal)", {"weights": weights.bfloat16()}
    yield "weights fp16, drawn (normal)", {"weights": weights.half()}
    yield "noise", {"noise": torch.randint(0, 256, (DRAWN,), dtype=torch.uint8)}
    model, optimizer, loss = train(steps)
    moments = list(optimizer.state.values())
    after = f"after {steps} steps"
    sys.stderr.write(f"loss {loss:.3f} {after}\n")
    yield f"weights fp32, {after}", model.state_dict()
    yield f"weights bf16, {after}", {name: one.bfloat16() for name, one in model.state_dict().items()}
    yield f"Adam, first moments fp32, {after}", [moment["exp_avg"] for moment in moments]
    yield f"Adam, second moments fp32, {after}", [moment["exp_avg_sq"] for moment in moments]
    yield (
        f"checkpoint: weights and Adam, fp32, {after}",
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
    )


def cpu_s(work: Callable[[], object]) -> float:
    """CPU this process spends on something, all threads."""

    def used_s() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    begun_s = used_s()
    work()
    return used_s() - begun_s


def moved(source: Path, folder: Path, compress: str) -> tuple[float, float, int]:
    """Save to a directory and restore: CPU-seconds of both, and bytes stored."""
    config = Config(transfer=Transfer(compress=compress), state_dir=str(folder / "state"))  # type: ignore[arg-type]
    with open_run(str(folder / "run"), config) as run:
        stored: list[int] = []
        save_s = cpu_s(lambda: stored.append(save(run, source, step=1).bytes_stored))
        restore_s = cpu_s(lambda: restore(run, folder / "target"))
    return save_s, restore_s, stored[0]


def measured(what: str, source: Path, rounds: int) -> Row:
    """Measure one file, with and without packing by turns."""
    size = source.stat().st_size
    least: dict[str, tuple[float, float, int]] = {}
    for _ in range(rounds):
        for compress in ("none", "zstd"):
            with tempfile.TemporaryDirectory(dir=source.parent) as folder:
                found = moved(source, Path(folder), compress)
            before = least.get(compress, found)
            least[compress] = (min(before[0], found[0]), min(before[1], found[1]), found[2])
    (plain_save, plain_restore, _), (packed_save, packed_restore, stored) = least["none"], least["zstd"]
    (file,) = scan(source, now_ns=0).files
    return Row(
        what=what,
        mib=round(size / (1 << 20), 1),
        shuffle=best_shuffle(file) or 0,
        kept=round(stored / size, 3),
        save_s=round(packed_save * GB / size, 2),
        save_added_s=round((packed_save - plain_save) * GB / size, 2),
        restore_s=round(packed_restore * GB / size, 2),
        restore_added_s=round((packed_restore - plain_restore) * GB / size, 2),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    options = parser.parse_args()
    os.environ.setdefault("CKPTSYNC_STATE_DIR", tempfile.mkdtemp())
    rows: list[Row] = []
    head = (
        "| file | MiB | elements | stored | saving, CPU-s/GB | of it packing | restoring, CPU-s/GB | of it unpacking |"
    )
    sys.stdout.write(f"{head}\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
    with tempfile.TemporaryDirectory() as folder:
        for what, state in states(options.steps):
            source = Path(folder) / "file.pt"
            torch.save(state, source)
            row = measured(what, source, options.rounds)
            rows.append(row)
            how = f"{row.shuffle} bytes" if row.shuffle else "as it is"
            sys.stdout.write(
                f"| {row.what} | {row.mib:.0f} | {how} | {100 * row.kept:.1f} % | {row.save_s:.1f} | {row.save_added_s:.1f} "
                f"| {row.restore_s:.1f} | {row.restore_added_s:.1f} |\n"
            )
            sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
