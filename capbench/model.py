"""A trained captioner as one uses it: pictures in, captions out, without Trainer or data set.

import capbench

model = capbench.load("runs/demo/checkpoints/best.ckpt")
for caption in model.caption("photo.jpg", num_captions=3):
    print(caption.text, caption.log_prob)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from PIL import Image
from torch import Tensor, nn

from capbench.card import model_card
from capbench.decoders import Decoder
from capbench.encoder import Encoder
from capbench.errors import UserError
from capbench.parts import from_plain, part_class
from capbench.pictures import open_image, upright
from capbench.runs import RunFolder, find_checkpoint, read_checkpoint, write_pretrained
from capbench.search import Found, Search, search
from capbench.text import Vocabulary

Picture = str | Path | Image.Image | npt.NDArray[Any] | Tensor
"""A file, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) of 0 to 255, or what the encoder takes (3, H, W)."""


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of an image.

    Attributes:
        text: its words.
        log_prob: natural log-probability of its words and `<end>`.
        attention: (words, rows, columns), where the decoder looks for each word, each adding up to 1; None where it
            does not attend, or where it was not asked for.
    """

    text: str
    log_prob: float
    attention: npt.NDArray[np.float32] | None = None


class Model(nn.Module, ModelHubMixin, library_name="capbench", pipeline_tag="image-to-text", tags=["image-captioning"]):
    """Encoder, decoder, vocabulary and search of a checkpoint, in eval mode. Threads may share one.

    `save_pretrained`, `push_to_hub` and `from_pretrained` are the Hub's own (`huggingface_hub.ModelHubMixin`).

    Args:
        encoder: pictures to features.
        decoder: features to words.
        vocabulary: which words.
        search: how captions are searched, if nothing else is said.
        made_of: the checkpoint's `hyper_parameters` and `capbench`, without which it cannot be saved.
        run: where the checkpoint's configuration and results are.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        vocabulary: Vocabulary,
        search: Search,
        made_of: dict[str, Any] | None = None,
        run: RunFolder | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.vocabulary, self.search = vocabulary, search
        self.made_of, self.run = made_of, run
        self.eval().requires_grad_(False)

    @classmethod
    def of_checkpoint(cls, path: Path) -> "Model":
        """From what `capbench.runs.find_checkpoint` gives, on the CPU."""
        checkpoint = read_checkpoint(path)
        made_of = {name: checkpoint[name] for name in ("hyper_parameters", "capbench")}
        options, saved = made_of.values()
        make_encoder = from_plain(options["encoder"], Encoder)  # type: ignore[type-abstract]
        make_decoder = from_plain(options["decoder"], Decoder)  # type: ignore[type-abstract]
        vocabulary = Vocabulary(saved["vocabulary"])
        encoder = make_encoder(part_class(make_decoder).needs, saved["encoder"])
        decoder = make_decoder(encoder.shape, len(vocabulary))
        model = cls(encoder, decoder, vocabulary, Search(**options["search"]), made_of, RunFolder.of(path))
        model.load_state_dict(checkpoint["state_dict"])
        return model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def attends(self) -> bool:
        """Whether the decoder says where it looks."""
        with torch.inference_mode():
            features = torch.zeros(1, self.encoder.shape.places, self.encoder.shape.channels, device=self.device)
            return "attention" in self.decoder.start(self.decoder.context(features))

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.made_of is None:
            raise UserError("Only a captioner that came from a checkpoint can be saved: take capbench.load.")
        write_pretrained(save_directory, self.made_of, self.state_dict(), self.run)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None, **download: Any) -> "Model":
        """Any options but those of the download are refused, as there are none."""
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(model_id, revision=revision, **download))
        return cls.of_checkpoint(folder)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The README of its folder: scores, data, configuration and licence, as far as its run says them.

        Args:
            args: none.
            kwargs: `license`, by the Hub's names, if it shall be another than that of the encoder's weights; `name` of
                the captioner; `repo_id` on the Hub.
        """
        assert self.made_of is not None  # `_save_pretrained` came before
        run = self.run
        config = run.config.read_text(encoding="utf-8") if run and run.config.is_file() else ""
        return model_card(self.made_of, run.result() if run else {}, config, **kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """See `ModelHubMixin.push_to_hub`; `model_card_kwargs` are those of `generate_model_card`."""
        told = {"repo_id": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=told, **options)

    def caption(
        self,
        images: Picture | Sequence[Picture],
        num_captions: int = 1,
        search: Search | None = None,
        attention: bool = False,
        batch_size: int = 32,
    ) -> list[Any]:
        """Captions of one image, best first; of several, a list of these for each.

        Args:
            images: a picture, a sequence of them, or a batch (N, 3, H, W) of what the encoder takes.
            num_captions: how many captions an image gets, at most.
            search: how to search; the checkpoint's own if not given. Its beam is widened where `num_captions` asks.
            attention: keep where the decoder looks for each word.
            batch_size: images that are captioned at once.

        Raises:
            UserError: a picture cannot be read, or an option is out of range.
        """
        alone = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) < 4
        pictures: Sequence[Picture] = [images] if alone else images  # type: ignore[assignment, list-item]
        options = self.options(num_captions, search)
        found: list[Any] = [
            captions
            for first in range(0, len(pictures), batch_size)
            for captions in self._captions(pictures[first : first + batch_size], options, attention)
        ]
        return found[0] if alone else found

    def options(self, num_captions: int = 1, search: Search | None = None) -> Search:
        """A search for so many captions an image.

        Raises:
            UserError: there is no such search.
        """
        options = search or self.search
        beam = options.beam if options.sample else max(options.beam, num_captions)
        return replace(options, beam=beam, captions=num_captions)

    def tensor(self, picture: Picture) -> Tensor:
        """What the encoder takes (3, H, W).

        Raises:
            UserError: the file is no readable image, or the array none.
        """
        if isinstance(picture, Tensor):
            return picture
        if isinstance(picture, np.ndarray):
            picture = _of_array(picture)
        opened = upright(picture) if isinstance(picture, Image.Image) else open_image(Path(picture))
        return self.encoder.transform(opened)

    @torch.inference_mode()
    def search_images(self, images: Tensor, options: Search, attention: bool = False) -> Found:
        """What a search finds for images (N, 3, H, W)."""
        return search(self.decoder, self.encoder(images.to(self.device)), options, attention)

    def _captions(self, pictures: Sequence[Picture], options: Search, attention: bool) -> list[list[Caption]]:
        found = self.search_images(torch.stack([self.tensor(picture) for picture in pictures]), options, attention)
        return self.read(found)

    def read(self, found: Found) -> list[list[Caption]]:
        """What was found, in words: fewer captions than asked for where there are no more."""
        texts, log_probs = found.words(self.vocabulary), found.log_probs.tolist()
        shape = self.encoder.shape
        maps = None if found.attention is None else found.attention.unflatten(-1, (shape.height, shape.width)).cpu()
        return [
            [
                Caption(text, log_prob, None if maps is None else maps[n, k, : len(text.split())].numpy())
                for k, (text, log_prob) in enumerate(zip(image, scores, strict=True))
                if log_prob > -np.inf
            ]
            for n, (image, scores) in enumerate(zip(texts, log_probs, strict=True))
        ]


def _of_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise UserError(
            f"An image as an array has 8-bit values in shape (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} in "
            f"{array.shape}."
        )
    return Image.fromarray(array)


def load(checkpoint: str | Path, device: str | torch.device | None = None) -> Model:
    """The captioner of a checkpoint.

    Args:
        checkpoint: a run's `best.ckpt` or `last.ckpt`, or its folder; one that `Model.save_pretrained` wrote;
            `hf://user/name` on the Hub; an artifact of W&B's, `entity/project/name:alias`.
        device: where it shall compute; a GPU if there is one.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is not one of capbench's.
    """
    model = Model.of_checkpoint(find_checkpoint(checkpoint))
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
