"""Load-tests `serve` on loopback: throughput and latency by how many clients ask at once, and what batches are worth.

python benchmarks/serving.py --checkpoint runs/demo/checkpoints/best.ckpt [--requests 400] [--clients 1 4 16 50]

Every client posts drawn scenes with noise, JPEGs of a photograph's size, one after the other. Batches are compared
without HTTP, in one process.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from features import photographs

from capbench.model import load
from capbench.serve.service import PLACES, Service

PICTURES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 50])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), PICTURES)
        pictures = [file.read_bytes() for file in Path(folder).iterdir()]
    print("without HTTP, 50 at once\n\n| batch | images/s | p50 ms | p95 ms |\n| --- | --- | --- | --- |")
    for batch in options.batches:
        print(row(batch, *asyncio.run(in_process(options.checkpoint, pictures, options.requests, batch))), flush=True)
    command = [sys.executable, "-m", "capbench", "serve", "--checkpoint", str(options.checkpoint), "--port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-4]
        print("\nover HTTP\n\n| clients | images/s | p50 ms | p95 ms |\n| --- | --- | --- | --- |")
        asyncio.run(over_http(url, pictures, PICTURES, 1))  # warms up
        for clients in options.clients:
            seconds, latencies = asyncio.run(over_http(url, pictures, options.requests, clients))
            print(row(clients, seconds, latencies), flush=True)
    finally:
        server.terminate()
        server.wait()


def row(what: int, seconds: float, latencies: list[float]) -> str:
    p50, p95 = 1000 * np.percentile(latencies, [50, 95])
    return f"| {what} | {len(latencies) / seconds:.1f} | {p50:.0f} | {p95:.0f} |"


async def in_process(checkpoint: Path, pictures: list[bytes], requests: int, batch: int) -> tuple[float, list[float]]:
    service = Service({"model": load(checkpoint)}, batch=batch)

    async def ask(place: int) -> None:
        searches = {"model": service.options("model", 1, {})}
        await service.caption(pictures[place % len(pictures)], searches)

    await timed(ask, len(pictures), 4)  # warms up
    return await timed(ask, requests, min(50, PLACES))


async def over_http(url: str, pictures: list[bytes], requests: int, clients: int) -> tuple[float, list[float]]:
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:

        async def ask(place: int) -> None:
            answer = await client.post(f"{url}/caption", content=pictures[place % len(pictures)])
            answer.raise_for_status()

        return await timed(ask, requests, clients)


async def timed(ask, requests: int, clients: int) -> tuple[float, list[float]]:
    """Seconds of all, and of each; so many are under way at once."""
    places, latencies = iter(range(requests)), []

    async def client() -> None:
        for place in places:
            start = time.perf_counter()
            await ask(place)
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start, latencies


if __name__ == "__main__":
    main()
