"""What all processes generated, as one set."""

import json
from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class GeneratedCaptions(Metric):
    """Captions by image id, gathered from all processes when computed; an image that two had counts once.

    The state is a list of tensors of bytes: a JSON line for each image id and caption. It begins with an empty one, so
    that a process without an image has something to be gathered too.
    """

    full_state_update = False
    lines: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("lines", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all captions."""
        super().reset()
        self.lines.append(torch.empty(0, dtype=torch.uint8, device=self.device))

    def update(self, ids: Iterable[str], captions: Iterable[str]) -> None:
        """Add one caption for each image."""
        text = "".join(json.dumps(pair) + "\n" for pair in zip(ids, captions, strict=True))
        self.lines.append(torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device))

    def compute(self) -> dict[str, str]:
        """Caption by image id, in the order of ids, whatever the processes' order."""
        text = dim_zero_cat(self.lines).cpu().numpy().tobytes().decode()
        return dict(sorted(json.loads(line) for line in text.splitlines()))
