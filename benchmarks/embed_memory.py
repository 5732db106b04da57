"""Memory of embeddings: a million rows through the writer, the join and the search.

    python benchmarks/embed_memory.py --rows 1000000 --dim 512

Random vectors, no pictures: a thousand rows a shard go through the parts, as `online-swav embed`
writes them; then the parts are joined, and the joined file is searched. Prints the peak resident
memory (VmHWM) at every tenth of the rows, and after joining and searching. Needs about 1.1 kB of
disk for each row of 512 float16, twice while parts are joined.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from online_swav.embeddings.nearest import nearest
from online_swav.embeddings.parts import Parts, begin, parts_folder
from online_swav.embeddings.table import open_table, rows, schema_of
from streams.shard import Shard

SHARD_ROWS, BATCH_ROWS = 1000, 64


def peak_mb() -> float:
    """Peak resident memory of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    raise SystemExit("no VmHWM in /proc/self/status: this benchmark needs Linux")


def measure(folder: Path, *, total: int, dim: int, dtype: str, seed: int) -> dict[str, object]:
    """Write, join and search; the numbers."""
    out = folder / "out.parquet"
    parts_folder(out).mkdir()
    begin(out, {})
    schema = schema_of(dim, dtype, {"encoder": "random"})
    parts = Parts(out, schema)
    rng = np.random.default_rng(seed)
    peaks: dict[str, float] = {"before": peak_mb()}
    print(f"before: {peaks['before']:.0f} MB", flush=True)
    shards = []
    begun, written = time.monotonic(), 0
    while written < total:
        number = len(shards)
        shard = Shard(url=f"/data/shard-{number:06d}.tar", size_bytes=1, fingerprint=str(number),
                      discovered_at=0.0, source="x")  # fmt: skip
        shards.append(shard)
        with parts.write(shard) as part:
            for start in range(0, SHARD_ROWS, BATCH_ROWS):
                count = min(BATCH_ROWS, SHARD_ROWS - start)
                vectors = rng.standard_normal((count, dim), dtype=np.float32).astype(dtype)
                part.rows.add(
                    rows(
                        schema,
                        keys=[f"{number:06d}-{start + i:04d}" for i in range(count)],
                        shard=shard.url,
                        indices=range(start, start + count),
                        embeddings=vectors,
                        prototypes=rng.integers(0, 3000, count).astype(np.int32),
                        scores=rng.random(count, dtype=np.float32),
                    )
                )
        before, written = written, written + SHARD_ROWS
        if written * 10 // total > before * 10 // total:
            peaks[f"{written}"] = peak_mb()
            print(f"{written:>9,} rows written: peak {peaks[f'{written}']:.0f} MB", flush=True)
    seconds = {"write": time.monotonic() - begun}
    begun = time.monotonic()
    joined = parts.join(shards)
    seconds["join"] = time.monotonic() - begun
    peaks["joined"] = peak_mb()
    print(f"{joined.rows:>9,} rows joined: peak {peaks['joined']:.0f} MB", flush=True)
    begun = time.monotonic()
    with open_table(out) as file:
        hits = nearest(file, rng.standard_normal(dim, dtype=np.float32), k=12)
    seconds["search"] = time.monotonic() - begun
    peaks["searched"] = peak_mb()
    print(f"{joined.rows:>9,} rows searched: peak {peaks['searched']:.0f} MB", flush=True)
    assert len(hits) == 12
    return {
        "rows": joined.rows, "dim": dim, "dtype": dtype, "file_mb": out.stat().st_size / 1e6,
        "peak_mb": peaks, "seconds": seconds, "machine": platform.machine(),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    parser.add_argument("--folder", type=Path, help="where the files go meanwhile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), total=options.rows, dim=options.dim, dtype=options.dtype,
                         seed=0)  # fmt: skip
    print({name: round(value, 1) for name, value in result["seconds"].items()})  # type: ignore[attr-defined]
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
