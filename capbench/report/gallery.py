"""What the page shows of images: which, their captions, pictures small enough to embed, and where decoders looked."""

import base64
import io
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from capbench.errors import UserError
from capbench.report.comparison import Comparison
from capbench.report.read import Run
from capbench.scores import NAMES

IMAGES, RUNS = 1000, 30
"""The most that the gallery holds: of more images so many drawn by a seed, of more runs those with the best CIDEr-D."""
SIDE, WORD_SIDE, QUALITY = 192, 112, 55  # pixels of a picture, and of one over which a word stands; of JPEG


class Gallery:
    """Images of a comparison with what its runs say of them.

    Args:
        comparison: whose runs.
        folder: where pictures are looked for by their names, in folders below it too; by default where the data of the
            first run lie.
        with_pictures: false leaves the data set's pictures out of everything, also of attention.

    Attributes:
        images: ids, sorted.
        runs: whose captions are shown.
    """

    def __init__(self, comparison: Comparison, folder: Path | None = None, with_pictures: bool = True) -> None:
        everything = list(comparison.systems[0].runs[0].statistics.images)
        self.images = sorted(random.Random(0).sample(everything, min(IMAGES, len(everything))))
        runs = [run for system in comparison.systems for run in system.runs]
        self.runs = sorted(runs, key=lambda run: -run.scored.get("cider_d", 0.0))[:RUNS]
        self.first = runs[0]
        self.folder, self.with_pictures = folder, with_pictures

    def captions_of(self, run: Run) -> dict[str, Any] | None:
        """Captions and scores of a run, in the order of the images; None where the run is not shown."""
        if run not in self.runs:
            return None
        rows = [run.rows[image] for image in self.images]
        names = [name for name in NAMES if all(name in row["scores"] for row in rows)]
        return {
            "captions": [row["caption"] for row in rows],
            "scores": {name: [round(row["scores"][name], 3) for row in rows] for name in names},
        }

    def references(self) -> list[list[str]]:
        """Of each image."""
        return [self.first.rows[image]["references"] for image in self.images]

    @cached_property
    def found(self) -> tuple[dict[str, Callable[[], Image.Image]], str]:
        """Image id -> what opens its picture; and where they cannot be found why."""
        try:
            return self._in_folder(self.folder) if self.folder else self._in_data(), ""
        except UserError as error:
            return {}, f"{error} Or name a folder that holds them with --images."

    @property
    def without(self) -> str:
        """Why the page shows no pictures; empty where it does."""
        return self.found[1] if self.with_pictures else "the page was made with --no-images"

    def _in_folder(self, folder: Path) -> dict[str, Callable[[], Image.Image]]:
        from capbench.data.folder import Folder

        if not folder.is_dir():
            raise UserError(f"--images {folder} is no folder.")
        find = Folder(folder).pictures(self.images)
        found = {image: find(image) for image in self.images}
        if not any(found.values()):
            raise UserError(f"--images {folder} holds none of the images; {self.images[0]} is one.")
        return {image: picture.open for image, picture in found.items() if picture}

    def _in_data(self) -> dict[str, Callable[[], Image.Image]]:
        """The pictures of the data that the first run was trained with, by its own configuration."""
        from capbench.data import CaptionData
        from capbench.parser import Parser

        config = yaml.safe_load(self.first.folder.config.read_text(encoding="utf-8"))
        parser = Parser()
        parser.add_subclass_arguments(CaptionData, "data")
        options = parser.parse_object({"data": config.get("data")})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            captions = parser.instantiate_classes(options).data.read()
        if captions.fingerprint() != self.first.result["data"]["fingerprint"]:
            raise UserError(f"{captions.source} are not the data that {self.first.name} was trained with.")
        return {image.id: image.open for image in captions.split(self.first.split)}

    def thumbnails(self) -> dict[str, str]:
        """Image id -> a small picture as a data URI; those that cannot be read are left out."""
        if not self.with_pictures:
            return {}
        with ThreadPoolExecutor() as pool:
            pictures = pool.map(self._thumbnail, self.images)
            return {image: picture for image, picture in zip(self.images, pictures, strict=True) if picture}

    def _thumbnail(self, image: str) -> str | None:
        picture = self._open(image)
        return _data_uri(picture, SIDE) if picture else None

    def _open(self, image: str) -> Image.Image | None:
        try:
            return self.found[0][image]() if image in self.found[0] else None
        except UserError:
            return None

    def attention(self, comparison: Comparison, count: int) -> list[dict[str, Any]]:
        """Where the first run of each system looked for each word, at so many images drawn by a seed.

        Found anew with the run's checkpoint, for systems that have one and whose decoders attend.
        """
        chosen = random.Random(0).sample(self.images, min(count, len(self.images)))
        opened = {image: self._open(image) for image in chosen}
        pictures = {image: picture for image, picture in opened.items() if picture}
        found = [_looked(system.runs[0], pictures, self.with_pictures) for system in comparison.systems if pictures]
        return [each for image in range(len(pictures)) for run in found for each in run[image : image + 1]]


def _looked(run: Run, pictures: dict[str, Image.Image], with_pictures: bool) -> list[dict[str, Any]]:
    """Of each picture the words of a run's caption, each with the picture lit where it looked; none if it does not."""
    from capbench.model import load
    from capbench.overlay import lit, seen
    from capbench.search import Search

    checkpoint = run.folder.left()
    if checkpoint is None:
        return []
    model = load(checkpoint)
    views = {image: model.tensor(picture) for image, picture in pictures.items()}
    told = model.caption(list(views.values()), search=Search(**run.scored["search"]), attention=True)
    looked = []
    for (image, view), captions in zip(views.items(), told, strict=True):
        if captions[0].attention is None:
            return []
        below = seen(view)
        below = below if with_pictures else Image.new("RGB", below.size, "white")
        words = zip(captions[0].text.split(), captions[0].attention, strict=True)
        lights = [(word, _data_uri(lit(_small(below, WORD_SIDE), weights), WORD_SIDE)) for word, weights in words]
        looked.append({"image": image, "run": run.name, "words": lights})
    return looked


def _small(picture: Image.Image, side: int) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((side, side))
    return picture


def _data_uri(picture: Image.Image, side: int) -> str:
    file = io.BytesIO()
    _small(picture, side).save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
