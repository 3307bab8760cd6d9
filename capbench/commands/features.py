"""`python -m capbench features`: the stores of what frozen encoders gave, listed, built ahead of training, removed."""

import argparse
import difflib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from capbench.errors import UserError

ROOT = Path(".features")


def arguments_parser() -> argparse.ArgumentParser:
    """The commands and their options; those of `build` are fit's."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench features", description="What frozen encoders gave, kept to be read by every run."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | build | clear")
    listing = commands.add_parser("list", help="what is there")
    commands.add_parser("build", help="encode all splits of a config's data now; takes fit's options (build --help)")
    clearing = commands.add_parser("clear", help="remove some, and what killed builds left")
    clearing.add_argument("keys", nargs="*", metavar="KEY", help="names of stores, as list prints them")
    clearing.add_argument("--all", action="store_true", help="remove all that are there")
    for command in (listing, clearing):
        command.add_argument("--feature_store", type=Path, default=ROOT, help=f"the folder of all ({ROOT})")
    return parser


def main(arguments: list[str]) -> int:
    """List, build or remove stores.

    Raises:
        UserError: no such store, or a config by which nothing is stored.
    """
    if arguments[:1] == ["build"]:
        build(arguments[1:])
        return 0
    options = arguments_parser().parse_args(arguments)
    if options.command == "list":
        list_stores(options.feature_store)
    else:
        clear(options.feature_store, options.keys, options.all)
    return 0


def list_stores(root: Path) -> None:
    """Print each store, and each build that has not come to an end."""
    from capbench.data.features import size_on_disk, unfinished_stores

    stores = finished(root)
    for folder in stores:
        print(f"{folder.name}  {_describe(folder)}\n{'':18}{folder}")
    if len(stores) != 1:
        print(f"{len(stores)} stores under {root}, {_bytes(sum(map(size_on_disk, stores)))}")
    for folder, lives in unfinished_stores(root).items():
        state = "being built now" if lives else "left by a build that was killed; the next build or clear removes it"
        print(f"{folder}  {state}, {_bytes(size_on_disk(folder))}")


def clear(root: Path, keys: list[str], everything: bool) -> None:
    """Remove the named stores, or all, and what killed builds left; print what that frees.

    Raises:
        UserError: a name that is none, or nothing named.
    """
    from capbench.data.features import clear_unfinished, remove

    stores = {folder.name: folder for folder in finished(root)}
    if unknown := [key for key in keys if key not in stores]:
        near = difflib.get_close_matches(unknown[0], stores, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else "`python -m capbench features list` names those that are there."
        raise UserError(f"There is no store {unknown[0]} under {root}: {hint}")
    if everything == bool(keys):
        raise UserError("Name the stores to remove, as `python -m capbench features list` prints them, or --all.")
    left = clear_unfinished(root)
    chosen = stores if everything else keys
    freed = sum(remove(stores[key]) for key in chosen)
    print(
        f"{len(chosen)} stores removed, {_bytes(freed)} freed" + (f"; of killed builds {_bytes(left)}" if left else "")
    )


def build(arguments: list[str]) -> None:
    """Encode all splits of a config's data, as `fit` with the same options would; on several devices by their number.

    Raises:
        UserError: a mistake, or a config by which nothing is stored.
    """
    from lightning.fabric import Fabric

    from capbench.cli import CapbenchCLI
    from capbench.data.captions import SPLITS
    from capbench.processes import end_together

    class Parts(CapbenchCLI):
        """The captioner and the data of a config, and no more."""

        def _parse_ckpt_path(self) -> None:
            self.options = self.config.fit
            self.options.trainer.logger = False

        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_trainer(self, **options: Any) -> Any:
            return None

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    end_together()
    parts = Parts(["fit", *arguments])
    trainer, data, captioner = parts.options.trainer, parts.datamodule, parts.model
    fabric = Fabric(accelerator=trainer.accelerator, devices=trainer.devices, num_nodes=trainer.num_nodes)
    fabric.launch()
    data.setup("fit")
    captioner.build(data.vocabulary())
    captioner.encoder.to(fabric.device)
    for split in SPLITS:
        if not data.captions.split(split):
            continue
        store = data.store(captioner.encoder, split)
        if store is None:
            raise UserError(
                "By this config no features are stored: set --model.encoder.frozen=true, and --data.feature_store to a "
                "folder."
            )
        if fabric.is_global_zero:
            print(f"{split:6} {store.folder}  {_describe(store.folder)}")


def finished(root: Path) -> list[Path]:
    """The folders of whole stores, the oldest first.

    Raises:
        UserError: no such folder.
    """
    from capbench.data.features import FEATURES, MADE_OF

    if not root.is_dir():
        raise UserError(f"There is no folder {root}: name the one of --data.feature_store with --feature_store.")
    folders = {file.parent for file in root.glob(f"[!.]*/{FEATURES}") if (file.parent / MADE_OF).is_file()}
    return sorted(folders, key=lambda folder: (folder / FEATURES).stat().st_mtime)


def _describe(folder: Path) -> str:
    """What a store holds, in one line."""
    import numpy as np

    from capbench.data.features import FEATURES, MADE_OF, size_on_disk

    made_of = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    rows = np.load(folder / FEATURES, mmap_mode="r")
    made = datetime.fromtimestamp((folder / FEATURES).stat().st_mtime)
    return (
        f"{made_of['encoder'].get('architecture', 'encoder')} {made_of['kind']}, {rows.shape[0]} images x "
        f"{rows.shape[1]} x {rows.shape[2]} {rows.dtype}, {_bytes(size_on_disk(folder))}, {made:%Y-%m-%d %H:%M}"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
