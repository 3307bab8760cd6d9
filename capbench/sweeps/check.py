"""Whether a sweep can run, found out before anything starts: its parameters by our own parser, then its inputs."""

import difflib
import itertools
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from jsonargparse import Namespace, capture_parser

from capbench import likelihood
from capbench.cli import CapbenchCLI, with_own_config
from capbench.data.images import Images
from capbench.encoder import TimmEncoder
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.parser import HELP
from capbench.parts import part_class, to_plain
from capbench.scores import captions, diversity
from capbench.sweeps.file import Point, SweepFile
from capbench.sweeps.section import error_at
from capbench.sweeps.words import VARIABLE, own_arguments

DEMO = "sweeps/demo.yaml, which needs neither and ends in under 10 minutes on 2 cores"
PATIENCE = 5.0
"""Seconds in which a server must answer."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BY_JAVA = {"meteor", "spice"}  # not during training


def check_sweep(sweep: SweepFile) -> None:
    """Refuse parameters that our command line does not have, and values that it does not take.

    Every choice, and both ends of every range, are tried, under each choice of a class whose options are searched too.
    Commands that are not capbench's are not looked into.

    Raises:
        UserError: something is refused; with the line of the file.
    """
    asked = CommandLine()
    arguments = own_arguments(sweep.words(next(probes(sweep))))
    if arguments is None:
        return
    for name in VARIABLE.findall(" ".join(sweep.command)):
        if name not in os.environ:
            message = f"the command's ${{envvar:{name}}} is not set: begin with {name}=... python -m capbench sweep."
            raise error_at(sweep.path, sweep.lines["command"], message)
    for point in probes(sweep):
        try:
            asked.settings(sweep.words(point))
        except UserError:
            _blame(sweep, point, asked)
            raise
    _check_metric(sweep, arguments[0])


def check_inputs(sweep: SweepFile) -> None:
    """Refuse a sweep whose images or pretrained weights cannot be had: they are neither here nor to be downloaded.

    Raises:
        UserError: what is missing, and the sweep that needs none of it.
    """
    asked, weights = CommandLine(), dict[str, str]()
    sources: dict[Any, Images] = {}
    for point in probes(sweep):
        settings = asked.settings(sweep.words(point))
        if settings is None:
            return
        if settings.ckpt_path is None:
            weights |= _weights(settings.model.make_encoder)
        if isinstance(data := settings.data, Images):
            sources.setdefault((data.root, data.source, data.captions_file, data.dataset), data)
    images = {what: where for data in sources.values() for what, where in _images(data).items()}
    needs = [f"the pretrained weights of {_listed(weights)}"] if weights else []
    needs += images
    for where in sorted((*weights.values(), *images.values()), key=lambda where: where.startswith("http")):
        if reason := _unreachable(where) if where.startswith("http") else where:
            raise UserError(
                f"{sweep.path} needs {_listed(needs)}, which cannot be had ({reason}): connect to the internet once, "
                "name what you have in its command (--data.root=FOLDER, --model.encoder.name=local-dir:FOLDER), or "
                f"run {DEMO}."
            )


class CommandLine:
    """Our own parser, asked without running anything."""

    def __init__(self) -> None:
        self.parser: Any = capture_parser(lambda: CapbenchCLI([]))

    def settings(self, words: list[str]) -> Namespace | None:
        """What a trial's command line comes to, with captioner and data as objects; null where it is not ours.

        Raises:
            UserError: our parser, or one of the classes, refuses it.
        """
        arguments = own_arguments(words)
        if arguments is None:
            return None
        config = self.parser.parse_args(with_own_config(arguments))
        command = config.subcommand
        config[command].trainer = Namespace()
        make = getattr(self.parser, "instantiate", None) or self.parser.instantiate_classes
        settings: Namespace = make(config)[command]
        with torch.device("meta"):  # refuses sizes, and costs nothing
            settings.model.make_decoder(FeatureShape(2, 2, 64), 10)
        return settings


def probes(sweep: SweepFile) -> Iterator[Point]:
    """Points in which every value that must be tried comes up, under each choice of class."""
    values = {name: list(distribution.ends()) for name, distribution in sweep.parameters.items()}
    classes = [name for name in values if any(other.startswith(f"{name}.") for other in values)]
    first = {name: some[0] for name, some in values.items()}
    for chosen in itertools.product(*(values[name] for name in classes)):
        start = first | dict(zip(classes, chosen, strict=True))
        yield start
        yield from (start | {name: value} for name in values if name not in classes for value in values[name][1:])


def _blame(sweep: SweepFile, point: Point, asked: CommandLine) -> None:
    """Raise the error of the first parameter with which a refused command line is refused, or of the command."""
    names = sweep.ordered()
    for count in range(len(names) + 1):
        fewer = replace(sweep, parameters={name: sweep.parameters[name] for name in names[:count]})
        try:
            asked.settings(fewer.words(point))
        except UserError as error:
            sentence = str(error).removesuffix(HELP)
            if not count:
                raise error_at(sweep.path, sweep.lines["command"], f"the command is refused: {sentence}") from error
            name = names[count - 1]
            owner = next((other for other in names[: count - 1] if name.startswith(f"{other}.")), None)
            under = f" with {owner}={point[owner]}" if owner else ""
            raise sweep.error(name, f"{name}={point[name]}{under} is refused: {sentence}") from error


def _check_metric(sweep: SweepFile, command: str) -> None:
    """Refuse a score that the command does not log; a name that is like none of ours may be a callback's."""
    scores = {"fit": captions.NAMES.keys() - BY_JAVA}.get(command, set(captions.NAMES))
    splits = {"fit": ["val"], "validate": ["val"], "test": ["test"]}.get(command, [])
    logged = {f"{split}/{score}" for split in splits for score in scores}
    if command == "fit":
        logged |= {"train/loss", "val/loss"}
    else:
        logged |= {f"{split}/{name}" for split in splits for name in (*diversity.NAMES, *likelihood.NAMES)}
    elsewhere = {f"{split}/{score}" for split in ("val", "test") for score in captions.NAMES}
    name = sweep.metric.name if sweep.metric else ""
    near = difflib.get_close_matches(name, sorted(logged), n=1, cutoff=0.8)
    if name not in logged and (near or name in elsewhere):
        instead = f"did you mean {near[0]}?" if near else f"it logs {', '.join(sorted(logged)) or 'none'}."
        raise error_at(sweep.path, sweep.lines["metric"], f"{command} does not log {name!r}: {instead}")


def _weights(make_encoder: Any) -> dict[str, str]:
    """Pretrained weights that are not on this machine, with the address to have them from."""
    import timm

    options = to_plain(make_encoder)["init_args"]
    if not (issubclass(part_class(make_encoder), TimmEncoder) and options["pretrained"]):
        return {}
    name = options["name"]
    if name.startswith("local-dir:"):
        there = Path(name.removeprefix("local-dir:"), "config.json").is_file()
        return {} if there else {name: "there is no such timm model folder"}
    if name.startswith("hf-hub:"):
        hub, url = name.removeprefix("hf-hub:"), ""
    else:
        try:
            known = timm.get_pretrained_cfg(name)
        except RuntimeError:
            known = None
        if known is None or not known.has_weights:
            return {name: "timm has no such weights"}
        hub, url = known.hf_hub_id, str(known.url or "")
    cached = [try_to_load_from_cache(hub, file) for file in WEIGHTS] if hub else []
    if url:
        cached.append(str(Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])))
    if any(isinstance(file, str) and Path(file).is_file() for file in cached):
        return {}
    return {name: f"{constants.ENDPOINT}/{hub}" if hub else url}


def _images(data: Images) -> dict[str, str]:
    """Images that are not on this machine, with the address to have them from."""
    if data.root is None:
        import datasets

        here = Path(datasets.config.HF_DATASETS_CACHE, data.dataset.replace("/", "___"))
        if here.is_dir() or Path(data.dataset).is_dir():
            return {}
        return {f"the data set {data.dataset}": f"{constants.ENDPOINT}/datasets/{data.dataset}"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.read()
    except UserError as error:
        return {f"the images of {data.root}": str(error).rstrip(".")}
    return {}


def _unreachable(address: str) -> str | None:
    """Why nobody answers there; one attempt, where the Hub's own client makes many."""
    if constants.HF_HUB_OFFLINE and address.startswith(constants.ENDPOINT):
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return None  # somebody is there, and may ask for a key that the client has
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"{address} does not answer: {getattr(reason, 'strerror', None) or reason}"
    return None


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
