"""The card of a captioner on the Hub: what it is, how well it does, by which data and on which terms."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from capbench.scores import columns

TASK = "image-to-text"
CODE = """```python
import capbench  # pip install capbench

model = capbench.load("{reference}")
for caption in model.caption("photo.jpg", num_captions=3):
    print(caption.text, caption.log_prob)
```"""


def model_card(
    made_of: dict[str, Any],
    result: dict[str, Any],
    config: str,
    name: str | None = None,
    repo_id: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """The card.

    Args:
        made_of: a checkpoint's `hyper_parameters` and `capbench`.
        result: the run's `result.json`, or nothing.
        config: the run's `config.yaml`, or nothing.
        name: the captioner's; the last part of `repo_id` or, without one, what it is made of.
        repo_id: the repository's.
        license: by the Hub's names; that of the encoder's weights, if nothing else is said.
    """
    encoder, decoder = (made_of["hyper_parameters"][part] for part in ("encoder", "decoder"))
    saved = made_of["capbench"]
    source = str(encoder["init_args"].get("name", encoder["class_path"].rpartition(".")[2]))
    weights = Path(source.partition(":")[2]).name if source.startswith("local-dir:") else source
    decoder_name = decoder["class_path"].rpartition(".")[2]
    name = name or (repo_id or f"{weights.partition('.')[0]}-{decoder_name.lower()}").rpartition("/")[2]
    pretrained = encoder["init_args"].get("pretrained", True)
    encoders_license = _license(source) if pretrained else None
    scores, data = result.get("scores", {}), result.get("data", {})
    facts = ModelCardData(
        library_name="capbench",
        pipeline_tag=TASK,
        tags=["capbench", "image-captioning", "model_hub_mixin"],
        license=license or encoders_license or "unknown",
        model_name=name,
        eval_results=_results(scores, data),
    )
    terms = (
        f"The weights of the encoder, {weights}, come under {encoders_license}"
        if encoders_license
        else f"The terms of the encoder's weights, {weights}, are not known to timm"
        if pretrained
        else "The encoder began with random weights"
    )
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {name}",
        f"An image captioner: {weights} looks, {decoder_name} tells, in {len(saved['vocabulary'])} words. Trained with "
        f"capbench {saved['version']}.",
        CODE.format(reference=f"hf://{repo_id}" if repo_id else "the folder of this file"),
        "## Scores",
        _table(scores) or "None were kept.",
        "## Data",
        _data(data) or "Not known.",
        "## Licence",
        f"{license or encoders_license or 'Not stated'}. {terms}; images and captions have terms of their own.",
    ]
    if config:
        parts += ["## Configuration", f"```yaml\n{config.strip()}\n```"]
    return ModelCard("\n\n".join(parts) + "\n")


def _license(source: str) -> str | None:
    """Of the weights of this name in timm; not of a folder's or a Hub repository's, whatever these are called."""
    from timm.models import get_pretrained_cfg, is_model_pretrained

    known = get_pretrained_cfg(source) if is_model_pretrained(source) else None
    return known.license if known else None


def _results(scores: dict[str, Any], data: dict[str, Any]) -> list[EvalResult] | None:
    """For the Hub's own tables."""
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=data.get("fingerprint", "unknown"),
            dataset_name=_source(data),
            dataset_split=split,
            metric_type=key,
            metric_name=heading,
            metric_value=round(found[key], 4),
        )
        for split, found in scores.items()
        for key, heading in columns(found).items()
        if key in found
    ] or None


def _table(scores: dict[str, Any]) -> str:
    headings = columns(*scores.values())
    rows = [["split", *headings.values(), "images"], ["---"] * (len(headings) + 2)]
    for split, found in scores.items():
        values = [f"{found[key]:.3f}" if key in found else "" for key in headings]
        rows.append([split, *values, str(found.get("images", ""))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if scores else ""


def _source(data: dict[str, Any]) -> str:
    """What the data are, without the folder they lay in."""
    return str(data.get("source", "unknown")).partition(" (")[0]


def _data(data: dict[str, Any]) -> str:
    if not data:
        return ""
    images = ", ".join(f"{count} {split}" for split, count in data.get("images", {}).items())
    return f"{_source(data)}: {images} images; fingerprint {data.get('fingerprint')}."
