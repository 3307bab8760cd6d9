"""Times what scoring captions costs at a validation and at a test, in one run, and prints medians and their ratios.

python benchmarks/scores.py [Flickr8k.token.txt] [--images 1000] [--rounds 5] [--json FILE]

Without a file the sentences are those of drawn scenes. An image's caption is another image's first reference.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capbench.scores import Scorer
from capbench.scores.captions import _normalise
from capbench.scores.meteor import METEOR

VALIDATION, TEST = "a validation", "a test: PTB, METEOR and all others"
References = dict[str, list[str]]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("token_file", nargs="?", type=Path, help="captions as Flickr8k.token.txt has them")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    everything = read(options.token_file) if options.token_file else scenes(options.images)
    references = dict(list(everything.items())[: options.images])
    first = [captions[0] for captions in references.values()]
    captions = dict(zip(references, [*first[1:], first[0]], strict=True))

    seconds, missing = measure(captions, references, options.rounds)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(captions)} captions, {sum(map(len, references.values()))} references; medians of {options.rounds}")
    print(f"{'seconds':>10}  {'times a validation':>18}")
    for name, median in medians.items():
        print(f"{median:10.3f}  {median / medians[VALIDATION]:18.1f}  {name}")
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")
    if options.json:
        facts: dict[str, Any] = {
            "command": sys.argv,
            "images": len(captions),
            "references": sum(map(len, references.values())),
            "seconds": seconds,
            "medians": medians,
            "missing": missing,
            "versions": versions(),
            "hardware": hardware(),
        }
        if TEST in medians:
            facts["validation_to_test"] = medians[VALIDATION] / medians[TEST]
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def measure(
    captions: dict[str, str], references: References, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What is measured -> its seconds in each round, and what is missing; each round goes through all."""
    scorer = Scorer(references)
    missing = Scorer(references, java=True)(captions).missing

    def test_from_cold() -> None:
        METEOR.close()
        Scorer(references, java=True)(captions)

    works: dict[str, Callable[[], object]] = {
        VALIDATION: lambda: scorer(captions),
        "the first validation: the references' statistics too": lambda: Scorer(references)(captions),
        "pycocoevalcap's own BLEU, ROUGE-L and CIDEr-D": lambda: plain(captions, references),
    }
    if not missing:
        works[TEST] = lambda: Scorer(references, java=True)(captions)
        works["the same, and METEOR's start"] = test_from_cold
    scorer(captions)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return seconds, missing


def plain(captions: dict[str, str], references: References) -> None:
    """The library's calls, on captions normalised as ours."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    candidates = {image: [_normalise(caption)] for image, caption in captions.items()}
    truths = {image: [_normalise(text) for text in texts] for image, texts in references.items()}
    Bleu(4).compute_score(truths, candidates, verbose=0)
    Rouge().compute_score(truths, candidates)
    Cider().compute_score(truths, candidates)


def read(token_file: Path) -> References:
    """Image -> references, of a file with lines like `image.jpg#0<tab>caption`."""
    references: References = {}
    for line in token_file.read_text(encoding="utf-8").strip("\n").split("\n"):
        name, _, caption = line.partition("\t")
        references.setdefault(name.partition("#")[0], []).append(caption)
    return references


def scenes(count: int) -> References:
    """Scene -> the sentences about it."""
    from capbench.data.scenes import describe, make_scene

    return {f"scene-{i:06d}": list(describe(make_scene(0, i))) for i in range(count)}


def versions() -> dict[str, str]:
    """Of all that the times depend on."""
    found = {name: version(name) for name in ("capbench", "pycocoevalcap", "numpy")}
    try:
        java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        java = "none"
    return {"python": platform.python_version(), **found, "java": java}


def hardware() -> dict[str, Any]:
    """The processor, its cores, and how busy they were."""
    model = platform.processor() or platform.machine()
    cpu_file = Path("/proc/cpuinfo")
    if cpu_file.exists():
        lines = cpu_file.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {"processor": model, "cores": os.cpu_count(), "load": os.getloadavg(), "platform": platform.platform()}


if __name__ == "__main__":
    main()
