"""Captioners and the one queue before them. What waits together is captioned together."""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Condition, Thread
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from capbench.model import Caption, Model
from capbench.search import Search
from capbench.serve.uploads import Refusal, read_picture

PLACES = 64
"""Requests that are read, wait or are captioned; the next is told to come again."""
BATCH = 16
LIMITS: dict[str, tuple[float, float]] = {
    **{"num_captions": (1, 20), "beam": (1, 20), "max_words": (1, 50), "length_penalty": (0, 10)},
    **{"temperature": (0.05, 10)},
}
"""What a stranger may ask for; how the options go together is for `Search` to say."""
READERS = 2
"""Threads that decode pictures, each of which may take some hundred MB meanwhile."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A picture (3, H, W) that waits for its captions."""

    model: Model
    options: Search
    attention: bool
    image: Tensor
    captions: Future[list[Caption]] = field(default_factory=Future)

    def goes_with(self, other: "Job") -> bool:
        """Whether one batch can hold both."""
        return (self.model, self.options, self.attention) == (other.model, other.options, other.attention)


class Service:
    """Captions of uploads, by one or more captioners.

    Args:
        models: captioners by name.
        places: how many requests are in hand at once.
        batch: pictures that are captioned at once.
    """

    def __init__(self, models: Mapping[str, Model], places: int = PLACES, batch: int = BATCH) -> None:
        self.models, self.places, self.batch = dict(models), places, batch
        self.attends = {name: model.attends for name, model in models.items()}
        self.taken = 0
        self._readers = ThreadPoolExecutor(READERS)
        self._jobs: deque[Job] = deque()
        self._arrived = Condition()
        Thread(target=self._work, daemon=True).start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places.

        Raises:
            Refusal: all are taken.
        """
        if self.taken >= self.places:
            raise Refusal(503, f"{self.places} pictures are being captioned: try again in a moment.")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def options(self, name: str, num_captions: int, changes: Mapping[str, Any]) -> Search:
        """The captioner's own search, with changes.

        Raises:
            Refusal: there is no such captioner, or too much is asked for.
            UserError: there is no such search.
        """
        if name not in self.models:
            raise Refusal(404, f"There is no checkpoint {name!r} here, but {', '.join(self.models)}.")
        for option, value in {"num_captions": num_captions, **changes}.items():
            least, most = LIMITS.get(option, (value, value))
            if not least <= value <= most:
                raise Refusal(400, f"{option} is from {least} to {most} here, not {value}.")
        model = self.models[name]
        return model.options(num_captions, replace(model.search, **changes))

    async def caption(
        self, data: bytes, searches: Mapping[str, Search], attention: bool = False, called: str = "This"
    ) -> tuple[Image.Image, dict[str, list[Caption]]]:
        """An upload as a picture, and its captions by each captioner that a search is given for.

        Args:
            data: the upload.
            searches: how each captioner shall search.
            attention: keep where decoders look.
            called: what messages call the upload.

        Raises:
            Refusal: it is no picture, or too large.
        """
        picture, jobs = await asyncio.get_running_loop().run_in_executor(
            self._readers, partial(self._open, data, searches, attention, called)
        )
        with self._arrived:
            self._jobs.extend(jobs)
            self._arrived.notify()
        captions = await asyncio.gather(*(asyncio.wrap_future(job.captions) for job in jobs))
        return picture, dict(zip(searches, captions, strict=True))

    def _open(
        self, data: bytes, searches: Mapping[str, Search], attention: bool, called: str
    ) -> tuple[Image.Image, list[Job]]:
        picture = read_picture(data, called)
        return picture, [
            Job(self.models[name], options, attention, self.models[name].tensor(picture))
            for name, options in searches.items()
        ]

    def _work(self) -> None:
        while True:
            jobs = [job for job in self._next() if job.captions.set_running_or_notify_cancel()]
            if not jobs:
                continue
            first = jobs[0]
            try:
                found = first.model.search_images(
                    torch.stack([job.image for job in jobs]), first.options, first.attention
                )
                captions: Sequence[list[Caption]] = first.model.read(found)
            except Exception as error:  # a GPU out of memory, say: those who wait must hear of it
                for job in jobs:
                    job.captions.set_exception(error)
                continue
            for job, each in zip(jobs, captions, strict=True):
                job.captions.set_result(each)

    def _next(self) -> list[Job]:
        """The job that has waited longest, and those that go with it."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._jobs)
            first = self._jobs[0]
            jobs = [job for job in self._jobs if job.goes_with(first)][: self.batch]
            self._jobs = deque(job for job in self._jobs if job not in jobs)
        return jobs
