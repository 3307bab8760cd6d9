"""Captioned images from files or from the Hub, found by themselves or named."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from capbench.data import hub, karpathy, original, table
from capbench.data.captions import CaptionSet
from capbench.data.folder import Folder
from capbench.data.module import CaptionData
from capbench.data.rows import Source, gather, references
from capbench.data.table import Columns
from capbench.errors import UserError

Kind = Literal["original", "karpathy", "kaggle", "table", "hub"]
FINDERS: dict[Kind, Callable[[Folder], Path | None]] = {
    "original": original.find,
    "karpathy": karpathy.find,
    "kaggle": table.find_kaggle,
    "table": table.find,
    "hub": hub.find,
}
LOOKED_FOR: dict[Kind | None, str] = {
    "original": f"Flickr8k's text files ({original.TOKENS})",
    "karpathy": "Karpathy's splits (dataset_flickr8k.json and the like)",
    "kaggle": f"Kaggle's {table.KAGGLE}",
    "table": "a table of captions (.csv, .tsv or .jsonl)",
    "hub": "a data set of the Hub (.parquet, or as save_to_disk writes it)",
}
LOOKED_FOR[None] = ", ".join(LOOKED_FOR.values())
SHOWN = 5


class Images(CaptionData):
    """Flickr8k and any other captioned images, in whatever layout they lie under a folder, or from the Hub.

    Args:
        root: folder with images and captions, nested or flat; null takes `dataset` from the Hub.
        source: `original` (Flickr8k's text files and splits), `karpathy` (`dataset_flickr8k.json`, 30k, COCO),
            `kaggle` (`captions.txt`), `table` (one's own `.csv`, `.tsv` or `.jsonl`), or `hub` (a data set of the Hub,
            by name or copied under `root`); null takes the first of these that is found.
        captions: the file of captions, where `root` holds several.
        dataset: name on the Hub, where no root is given.
        columns: which columns of a table or of the Hub's data set hold what, where names are unusual.
        shares: of images in train and test ([0.9, 0.1]), or in train, val and test ([0.8, 0.1, 0.1]), drawn image by
            image; null keeps the source's own splits, and is [0.8, 0.1, 0.1] where it has none.
        split_seed: of that drawing.
        max_missing: share of the splits' images that may have no file or no captions; more is an error.
        options: see `CaptionData`.
    """

    def __init__(
        self,
        root: Path | None = None,
        source: Kind | None = None,
        captions: Path | None = None,
        dataset: str = "jxie/flickr8k",
        columns: Columns = Columns(),  # noqa: B008 - never changed
        shares: list[float] | None = None,
        split_seed: int = 0,
        max_missing: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root, self.source, self.captions_file = root, source, captions
        self.dataset, self.columns = dataset, columns
        self.shares, self.split_seed, self.max_missing = shares, split_seed, max_missing

    def read(self) -> CaptionSet:
        """Find the captions and read them.

        Raises:
            UserError: nothing found, a line that cannot be read, or too many images missing.
        """
        found = self.find()
        if found.left_out:
            warnings.warn(
                f"{len(found.left_out)} captions without a word are left out ({_some(found.left_out)}).", stacklevel=2
            )
        if found.missing:
            total = len(found) + len(found.missing)
            message = f"{len(found.missing)} of {total} images of the splits have no file or no captions "
            message += f"({_some(list(found.missing))})"
            if len(found.missing) > self.max_missing * total:
                raise UserError(
                    f"{message}: complete the data, or allow a larger share than {self.max_missing:g} with "
                    "--data.max_missing."
                )
            warnings.warn(f"{message}; they are left out.", stacklevel=2)
        return found

    def find(self) -> CaptionSet:
        """All that is there, however much is missing."""
        return gather(self._source(), self.shares, self.split_seed)

    def references(self, draw: bool = True) -> tuple[dict[str | None, dict[str, tuple[str, ...]]], str]:
        """By split the captions of its images, whether the images are there or not; and what they were read from.

        Where the source has no splits they are drawn, or else null is all images' split.

        Raises:
            UserError: nothing found, or a line that cannot be read.
        """
        source = self._source()
        return references(source, self.shares, self.split_seed, draw), source.label

    def _source(self) -> Source:
        if self.root is None:
            if self.captions_file or self.source not in (None, "hub"):
                named = f"captions {self.captions_file}" if self.captions_file else f"source {self.source}"
                raise UserError(f"--data.{named} needs the folder that holds the images: add --data.root.")
            return hub.read(self.dataset, self.columns)
        folder = Folder(Path(self.root).expanduser())
        kind, file = self._found(folder)
        if kind == "original":
            return original.read(folder, file)
        if kind == "karpathy":
            return karpathy.read(folder, file)
        if kind == "hub":
            return hub.read(str(file), self.columns)
        return table.read(folder, file, self.columns)

    def _found(self, folder: Folder) -> tuple[Kind, Path]:
        """The kind of source that was named or is there, and its file of captions."""
        if self.captions_file:
            file = Path(self.captions_file).expanduser()
            if not file.is_file():
                raise UserError(f"There is no file {file} (--data.captions).")
            return self.source or _kind_of(file), file
        for kind, find in FINDERS.items():
            file_found = find(folder) if self.source in (None, kind) else None
            if file_found:
                return kind, file_found
        there = ", ".join(sorted(entry.name for entry in folder.root.iterdir())[:8]) or "nothing"
        raise UserError(
            f"Looked under {folder.root} for {LOOKED_FOR[self.source]} and found none; found there: {there}. Set "
            "--data.root to the folder that holds both the images and their captions."
        )


def _kind_of(captions: Path) -> Kind:
    if captions.name == original.TOKENS:
        return "original"
    return "karpathy" if captions.suffix == ".json" else "table"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
