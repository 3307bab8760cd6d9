"""Times 1,000 bootstrap rounds, a comparison and a human row, in one run, and prints medians.

python benchmarks/uncertainty.py [Flickr8k.token.txt] [--images 1000] [--times 5] [--json FILE]

Without a file the sentences are those of drawn scenes. An image's caption is another image's first reference.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scores import hardware, read, scenes, versions

from capbench.scores import score_captions
from capbench.scores.human import LeaveOneOut
from capbench.scores.statistics import Statistics
from capbench.scores.uncertainty import ROUNDS, differences, intervals


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("token_file", nargs="?", type=Path, help="captions as Flickr8k.token.txt has them")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5, help="how often each is measured; what needs Java, once")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    everything = read(options.token_file) if options.token_file else scenes(options.images)
    references = dict(list(everything.items())[: options.images])
    first = [texts[0] for texts in references.values()]
    captions = dict(zip(references, [*first[1:], first[0]], strict=True))
    other = dict(zip(references, [first[-1], *first[:-1]], strict=True))

    one, two = (Statistics.of(score_captions(said, references)) for said in (captions, other))
    works: dict[str, Callable[[], object]] = {
        f"{ROUNDS} rounds, 1 run, all scores": lambda: intervals([one]),
        f"{ROUNDS} rounds, 5 runs, all scores": lambda: intervals([one] * 5),
        f"{ROUNDS} rounds, a comparison of 1 run with 1": lambda: differences([one], [two]),
        f"{ROUNDS} rounds, a comparison of 5 runs with 5": lambda: differences([one] * 5, [two] * 5),
    }
    seconds = {name: [timed(work) for _ in range(options.times)] for name, work in works.items()}
    missing = score_captions(captions, references, java=True).missing  # METEOR has started
    if not missing:
        loo = LeaveOneOut(references, java=True)
        seconds["the human row, with Java"] = [timed(loo.people)]
        seconds["a system beside it, with Java"] = [timed(lambda: loo.system(captions))]

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{len(captions)} captions, {sum(map(len, references.values()))} references")
    for name, median in medians.items():
        print(f"{median:10.3f} s  {name}")
    for name, score in intervals([one]).items():
        print(f"{score.value:10.4f}  {score.low:.4f} to {score.high:.4f}  {name}")
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")
    if options.json:
        facts = {
            "command": sys.argv,
            "images": len(captions),
            "rounds": ROUNDS,
            "seconds": seconds,
            "medians": medians,
            "intervals": intervals([one]),
            "missing": missing,
            "versions": versions(),
            "hardware": hardware(),
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def timed(work: Callable[[], object]) -> float:
    """The seconds that a work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
