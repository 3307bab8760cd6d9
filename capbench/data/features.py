"""The feature store: what a frozen encoder gives for each image, computed once and mapped from disk."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import IO, Any, Literal, Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from capbench.data.captions import CaptionedImage
from capbench.encoder import Encoder
from capbench.errors import UserError

BATCH = 32  # images that are encoded at once
COPIED = 256  # features that are copied to a device at once
FEATURES, MADE_OF = "features.npy", "made_of.json"
FAILED = "failed"
NEW, UNFINISHED = ".new-", ".unfinished-"

T = TypeVar("T")


class OpenedImages(Dataset[tuple[CaptionedImage, Tensor]]):
    """Images opened and transformed (3, H, W) when asked for; batches are taken whole."""

    def __init__(self, images: Sequence[CaptionedImage], transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[CaptionedImage, Tensor]:
        """An image and its picture.

        Raises:
            UserError: it cannot be read.
        """
        image = self.images[index]
        try:
            return image, self.transform(image.open())
        except UserError as error:
            raise UserError(f"{error} Repair it or take it out; `python -m capbench data` lists all such.") from error

    def __getitems__(self, indices: list[int]) -> tuple[list[CaptionedImage], Tensor]:
        """A batch: N images and their pictures (N, 3, H, W)."""
        images, pictures = zip(*(self[index] for index in indices), strict=True)
        return list(images), torch.stack(pictures)


class FeatureStore:
    """Features (L, C) by image id, in one file a set of images.

    The file's folder is named by a hash of everything that the features depend on: the encoder's weights,
    architecture, preprocessing and kind of features, the precision, and the pictures. It appears whole or not
    at all: it is filled in a hidden folder beside its place, which is renamed at the end.

    Args:
        root: folder of all stores.
        encoder: a frozen encoder.
        images: the images.
        dtype: precision on disk.

    Attributes:
        folder: this store's own.
        shape: (images, L, C).
        size: bytes of all features.
    """

    def __init__(
        self, root: Path, encoder: Encoder, images: list[CaptionedImage], dtype: Literal["float16", "float32"]
    ) -> None:
        self.images, self.dtype = images, dtype
        self.made_of = {
            "weights": encoder.weights_hash(),
            "encoder": encoder.saved(),
            "kind": encoder.kind,
            "dtype": dtype,
            "images": len(images),
            "pictures": _hash([(image.id, image.stamp) for image in images]),
        }
        self.folder = Path(root) / _hash(self.made_of)
        self.file = self.folder / FEATURES
        self.shape = (len(images), encoder.shape.places, encoder.shape.channels)
        self.size = int(np.prod(self.shape)) * np.dtype(dtype).itemsize
        self.held: Tensor | None = None
        self.lock: IO[bytes] | None = None

    def exists(self) -> bool:
        """Whether the features are there."""
        return self.file.is_file()

    def build(self, encoder: Encoder, num_workers: int) -> None:
        """Unless the store is there, run the encoder over all images, with a progress bar, and put it in its place.

        Where processes have joined in a group (DDP), all must call this: each encodes its share of the images.

        Raises:
            UserError: no room on the disk, an image that cannot be read, or features too large for half precision, in
                whichever process.
        """
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        unfinished = _together(self._begin if rank == 0 else _nothing)[0]
        if unfinished is None:
            return
        try:
            _together(partial(self._encode, encoder, num_workers, unfinished, rank, processes))
            _together(partial(self._finish, unfinished) if rank == 0 else _nothing)
        finally:
            if rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
                self.lock = None

    def _begin(self) -> Path | None:
        """A hidden folder with an empty file for the features, locked; none if the store is there."""
        if self.exists():
            return None
        root = self.folder.parent
        try:
            root.mkdir(parents=True, exist_ok=True)
            clear_unfinished(root)
            if self.size > shutil.disk_usage(root).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            new = Path(tempfile.mkdtemp(prefix=NEW, dir=root))  # renamed when locked, so that nobody takes it for dead
            try:
                np.lib.format.open_memmap(new / FEATURES, "w+", self.dtype, self.shape)
                (new / MADE_OF).write_text(json.dumps(self.made_of, indent=2), encoding="utf-8")
                self.lock = _lock(new / FEATURES)
                return new.rename(root / new.name.replace(NEW, UNFINISHED))
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise
        except OSError as error:
            raise self._cannot_write(error) from error

    def _encode(self, encoder: Encoder, num_workers: int, unfinished: Path, rank: int, processes: int) -> None:
        """Write the features of a process' share of the images, unless another process fails meanwhile."""
        count = len(self.images)
        first, end = count * rank // processes, count * (rank + 1) // processes
        images = OpenedImages(self.images[first:end], encoder.transform)
        title = f"encoding {count} images once ({self.size / 1e6:.0f} MB)"
        title += f", {len(images)} of them in this process" if processes > 1 else ""
        bar = tqdm(total=len(images), desc=title, unit="image", mininterval=1, disable=rank > 0)
        on_cpu = next(encoder.parameters()).device.type == "cpu"
        batches = encode_in_threads(encoder, images) if on_cpu else encode(encoder, images, num_workers)
        try:
            if not unfinished.is_dir():
                raise UserError(
                    f"{unfinished} is there for the first process, but not for process {rank}: several machines need a "
                    "--data.feature_store that all of them see."
                )
            with (unfinished / FEATURES).open("r+b") as file, bar, closing(batches):
                file.seek(self.size // count * (first - count), os.SEEK_END)
                for batch in batches:
                    features = batch.to(getattr(torch, self.dtype))
                    if not features.isfinite().all():
                        raise UserError("These features overflow half precision: set --data.feature_dtype=float32.")
                    file.write(features.cpu().contiguous().numpy().data)
                    bar.update(len(features))
                    if (unfinished / FAILED).exists():
                        return
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            with suppress(OSError):
                (unfinished / FAILED).touch()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._cannot_write(error) from error
            raise

    def _finish(self, unfinished: Path) -> None:
        """Put the store in its place, unless another command's is there by now."""
        try:
            unfinished.rename(self.folder)
        except OSError:
            if not self.exists():
                raise

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(
            f"The features of {len(self.images)} images, {self.size / 1e9:.1f} GB, cannot be written under "
            f"{self.folder.parent} ({error.strerror or error}): name another folder with --data.feature_store, or null "
            "to do without."
        )

    def open(self) -> Self:
        """Map the features."""
        with self.file.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.rows = np.ndarray(self.shape, self.dtype, self.map, len(self.map) - self.size)
        self.row_of = {image.id: row for row, image in enumerate(self.images)}
        return self

    def hold(self, device: torch.device) -> None:
        """Keep all features on a device from now on, rather than on the disk."""
        held = torch.empty(self.shape, dtype=getattr(torch, self.dtype), device=device)
        for first in range(0, len(held), COPIED):
            rows = range(first, min(first + COPIED, len(held)))
            held[first : rows.stop] = self._read(list(rows))
        self.held = held

    def features(self, images: Sequence[CaptionedImage]) -> Tensor:
        """Features (N, L, C) of N images, on the device that holds them, or else in main memory."""
        rows = [self.row_of[image.id] for image in images]
        if self.held is None:
            return self._read(rows)
        return self.held[torch.tensor(rows, device=self.held.device)]

    def _read(self, rows: list[int]) -> Tensor:
        """A copy of some rows; the pages that were read do not stay in this process' memory."""
        features = torch.from_numpy(self.rows[rows])
        self.map.madvise(mmap.MADV_DONTNEED)
        return features


def encode(encoder: Encoder, images: OpenedImages, num_workers: int) -> Generator[Tensor, None, None]:
    """Features (N, L, C) batch by batch, the images opened by other processes."""
    collate: Any = _pictures  # of whole batches
    loader = DataLoader(
        images,
        BATCH,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that training draws the same whether the store was there or not
    )
    device = next(encoder.parameters()).device
    for pictures in loader:
        with torch.inference_mode():
            features: Tensor = encoder(pictures.to(device, non_blocking=True))
        yield features


def encode_in_threads(encoder: Encoder, images: OpenedImages) -> Generator[Tensor, None, None]:
    """The same on a CPU: as many threads as torch would use, each of which opens some images and encodes them alone.

    So no core waits for another, neither at each layer nor for pictures.
    """
    threads = torch.get_num_threads()
    size = max(1, BATCH // threads)

    def work(first: int) -> Tensor:
        torch.set_num_threads(1)
        with torch.inference_mode():
            features: Tensor = encoder(images.__getitems__(list(range(first, min(first + size, len(images)))))[1])
            return features

    pool = ThreadPoolExecutor(threads)
    ahead: deque[Future[Tensor]] = deque()
    try:
        for first in range(0, len(images), size):
            ahead.append(pool.submit(work, first))
            if len(ahead) > 2 * threads:  # so that memory does not grow where the disk is slower
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def unfinished_stores(root: Path) -> dict[Path, bool]:
    """The folders of builds that have not come to an end, and whether their process lives."""
    return {folder: not _abandoned(folder / FEATURES) for folder in sorted(root.glob(f"{UNFINISHED}*"))}


def clear_unfinished(root: Path) -> int:
    """Remove what dead processes left; the bytes that this frees."""
    return sum(remove(folder) for folder, lives in unfinished_stores(root).items() if not lives)


def remove(folder: Path) -> int:
    """Remove a store, at once for all who look for it; the bytes that this frees."""
    freed = size_on_disk(folder)
    if not folder.name.startswith(UNFINISHED):
        folder = folder.rename(folder.parent / f"{UNFINISHED}{folder.name}")
    shutil.rmtree(folder, ignore_errors=True)
    return freed


def size_on_disk(folder: Path) -> int:
    """Bytes of a folder's files, without what is not written yet."""
    stats = [file.stat() for file in folder.iterdir()]
    return sum(min(stat.st_size, stat.st_blocks * 512) for stat in stats)


def _lock(file: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or its process ends, however that ends; null if it cannot be locked."""
    opened = file.open("r+b")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return None
    return opened


def _abandoned(file: Path) -> bool:
    try:
        lock = _lock(file)
    except FileNotFoundError:
        return True
    if lock:
        lock.close()
    return lock is not None


def _together(work: Callable[[], T]) -> list[T]:
    """What each process' work gave, once all are done.

    Raises:
        Exception: the work's own.
        UserError: another process' work failed by a user's mistake.
        RuntimeError: another process' work failed.
    """
    if not dist.is_initialized():
        return [work()]
    result, error = None, None
    try:
        result = work()
    except Exception as raised:
        error = raised
    told = error if error is None or isinstance(error, UserError) else RuntimeError("".join(format_exception(error)))
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, (result, told))
    for failure in (error, *(told for _, told in everyones)):
        if failure:
            raise failure
    return [result for result, _ in everyones]


def _nothing() -> None:
    pass


def _pictures(batch: tuple[list[CaptionedImage], Tensor]) -> Tensor:
    return batch[1]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
