from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`datasets` keeps its files here, and shows no bars."""
    import datasets

    folder = tmp_path_factory.mktemp("hub_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        datasets.disable_progress_bars()
        yield folder
        datasets.enable_progress_bars()
