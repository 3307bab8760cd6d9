"""The tokeniser that coco-caption runs before its scorers: Stanford's, after the Penn Treebank."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from capbench.scores.java import JavaFailed, failure, java_command, java_environment

PATIENCE = 600  # seconds; 40,000 captions take one


def ptb_tokenise(captions: Sequence[str]) -> list[str]:
    """Each caption's words by Stanford's PTBTokenizer of CoreNLP 3.4.1, without punctuation, separated by spaces.

    Of normalised captions it changes next to nothing: it joins numbers that look like a telephone's, writes `½` as
    `1/2`, and drops letters that it does not know.

    Source: `pycocoevalcap.tokenizer.ptbtokenizer`, which would write a file into its own package for each call.

    Args:
        captions: at least one, none with a line break.

    Raises:
        JavaFailed: there is no Java, or it did not answer with one line for each caption.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    options = ("-preserveLines", "-lowerCase", "-encoding", "UTF-8")
    command = java_command("-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", *options)
    name = "The PTB tokeniser"
    try:
        done = subprocess.run(
            command,
            input="\n".join(captions).encode(),
            capture_output=True,
            timeout=PATIENCE,
            env=java_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise failure(name, f"was ended after {PATIENCE} seconds without an answer") from None
    except OSError as error:
        raise JavaFailed(f"{name} could not be started: {error}.") from None
    if done.returncode:
        raise failure(name, f"ended with status {done.returncode}", done.stderr.decode(errors="replace"))
    lines = [line for line in done.stdout.decode().split("\n") if not line.startswith("[")]  # [: a log of Java's own
    if len(lines) != len(captions):
        raise failure(name, f"answered {len(captions)} captions with {len(lines)} lines")
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in dropped) for line in lines]
