"""Time and memory of building a store and reading an epoch of it, at 1, 4 and 16 times as many images.

python benchmarks/growth.py [--encoder test_resnet] [--images 256] [--device cuda]

Each size runs in a process of its own. Memory is the most that the process held at once, pages of files included.
The features are those of the encoder's first stage, so that the largest store is as large as a process that reads it.
Exponents are fitted to logarithms: 1 is linear, 0 is flat.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from measure import Row, print_rows

FACTORS = (1, 4, 16)
TITLES = {"build s": "building time", "epoch s": "reading time", "peak MB": "peak memory"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="test_resnet")
    parser.add_argument("--images", type=int, default=256, help="at 1x")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, help="measure one size in this process, and print what it took as JSON")
    options = parser.parse_args()
    if options.count:
        print(json.dumps(measure(options.encoder, options.count, options.device)))
        return
    print_rows(rows(options.device, options.encoder, options.images, options.rounds), options.device)


def rows(device: str = "cpu", encoder: str = "test_resnet", images: int = 128, rounds: int = 3) -> list[Row]:
    """The exponents of the time and memory of building a store and reading it."""
    counts = [images * factor for factor in FACTORS]
    taken: dict[str, list[float]] = {}
    for count in counts:
        command = [sys.executable, __file__, "--encoder", encoder, "--device", device, "--count", str(count)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(rounds)
        ]
        for name in runs[0]:
            taken.setdefault(name, []).append(float(np.median([run[name] for run in runs])))
    found = []
    for name, limit in {"build s": 1.1, "epoch s": 1.1, "peak MB": 0.1}.items():
        exponent = float(np.polyfit(np.log(counts), np.log(taken[name]), 1)[0])
        title = f"growth with images, exponent of {TITLES[name]}"
        values = ", ".join(f"{value:,.3g}" for value in taken[name])
        note = f"{name.partition(' ')[2]} at {', '.join(map(str, counts))} images: {values}"
        seconds = taken["epoch s" if name == "epoch s" else "build s"]
        work = (float(counts[-1]), "images")
        found.append(Row(title, seconds[-1], seconds[0], exponent, limit, True, work, note))
    return found


def measure(encoder_name: str, count: int, device: str) -> dict[str, float]:
    """Seconds of building and of an epoch, and the most memory of the whole process (MB) with files' pages."""
    from functools import partial

    import torch

    from capbench.data.captions import CaptionedImage
    from capbench.data.features import FeatureStore
    from capbench.data.module import Collate, StoredFeatures
    from capbench.data.scenes import describe, draw, make_scene
    from capbench.encoder import TimmEncoder
    from capbench.text import Vocabulary

    torch.manual_seed(0)
    scenes = [make_scene(0, index) for index in range(count)]
    images = [
        CaptionedImage(f"{index}", describe(scene), "train", partial(draw, scene, 64), f"{index}")
        for index, scene in enumerate(scenes)
    ]
    vocabulary = Vocabulary.from_captions([text for image in images for text in image.references])
    encoder = TimmEncoder("grid", None, encoder_name, pretrained=False, stages=[0]).to(device)
    with tempfile.TemporaryDirectory() as root, Peak() as peak:
        began = time.perf_counter()
        store = FeatureStore(Path(root), encoder, images, "float16")
        store.build(encoder, 2)
        built = time.perf_counter()
        collate = Collate(vocabulary, 50, encoded=True)
        loader = torch.utils.data.DataLoader(StoredFeatures(images, store), 32, shuffle=True, collate_fn=collate)
        store.open()
        epochs = [epoch(loader) for _ in range(3)]
        return {
            "build s": built - began,
            "epoch s": float(np.median(epochs)),
            "peak MB": peak.highest / 1e3,
            "store MB": store.size / 1e6,
        }


def epoch(loader: Iterable[object]) -> float:
    """Seconds in which all batches are read."""
    began = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - began


class Peak:
    """The most memory that this process holds (kB), as the system counts it every few milliseconds."""

    def __enter__(self) -> "Peak":
        self.highest, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.highest = max(self.highest, int(status.partition("VmRSS:")[2].split()[0]))

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


if __name__ == "__main__":
    main()
