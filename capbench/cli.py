"""fit, validate, test and predict: LightningCLI around Captioner and CaptionData."""

import inspect
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from capbench.captioner import Captioner
from capbench.data import CaptionData
from capbench.errors import UserError
from capbench.exhibits import Tracking
from capbench.likelihood import Likelihood
from capbench.parser import Parser
from capbench.processes import end_together, is_first, stop_together
from capbench.recorder import Recorder
from capbench.runs import RunFolder, find_checkpoint, read_checkpoint
from capbench.summary import print_summary
from capbench.tracking import begin_logging, configure_wandb, wandb_run

MONITOR = {"monitor": "val/bleu4", "mode": "max"}


class CapbenchCLI(LightningCLI):
    """Adds run folders, checkpoints that bring their own model, and W&B without prompts."""

    def __init__(self, arguments: list[str]) -> None:
        _try_whole_numbers_first()
        self.named = any(argument.partition("=")[0] == "--name" for argument in arguments)
        super().__init__(
            Captioner,
            CaptionData,
            save_config_callback=None,
            trainer_defaults={"logger": False, "num_sanity_val_steps": 0, "enable_model_summary": False},
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": "python -m capbench"},
            subclass_mode_data=True,
            args=arguments,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's name and the callbacks that every run has."""
        parser.set_defaults({"data": {"class_path": "Images"}})
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run; by default the config's.")
        told = "After fit, caption and score the test split by the best checkpoint."
        parser.add_argument("--test_best", type=bool, default=False, help=told)
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of all runs.")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {f"checkpoint.{key}": value for key, value in MONITOR.items()}
            | {"checkpoint.filename": "best", "checkpoint.enable_version_counter": False}
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        patience = MONITOR | {"patience": 5, "strict": False}
        parser.set_defaults({f"early_stopping.{key}": value for key, value in patience.items()})
        parser.add_lightning_class_args(Likelihood, "likelihood")
        parser.add_lightning_class_args(Tracking, "tracking")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; LightningCLI's own way warns of arguments that are not `sys.argv`'s."""
        assert isinstance(parser, Parser)
        parser.commands = self._subcommand_parsers
        self.config = parser.parse_args(args)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        return parser

    def _parse_ckpt_path(self) -> None:
        """Settle the run's folder and checkpoint; encoder and decoder are the checkpoint's."""
        self.options: Namespace = self.config[self.config.subcommand]
        self.resumes = self.options.ckpt_path is not None
        self.folder = self._folder()
        if not self.resumes:
            return
        checkpoint = read_checkpoint(Path(self.options.ckpt_path))
        for part in ("encoder", "decoder"):
            theirs, ours = checkpoint["hyper_parameters"][part], self.options.model[part]
            if _class_name(theirs) != _class_name(ours):
                raise UserError(
                    f"{self.options.ckpt_path} holds the {part} {_class_name(theirs)}, but this command names "
                    f"{_class_name(ours)}: give the config that it was trained with."
                )
            self.options.model[part] = Namespace(
                class_path=theirs["class_path"], init_args=Namespace(**theirs["init_args"])
            )

    def _folder(self) -> RunFolder:
        name = self.options.name = self.options.name or self._config_name()
        asked, command = self.options.ckpt_path, self.config.subcommand
        if asked is None:
            if command != "fit":
                raise UserError(
                    f"{command} needs a trained model: add --ckpt_path best (the best checkpoint of the latest run "
                    f"named {name!r}), --ckpt_path last, or --ckpt_path FILE."
                )
            return RunFolder.new(self.options.runs, name)
        if asked in ("best", "last"):
            folder = self._own_folder() or RunFolder.latest(self.options.runs, name)
            self.options.ckpt_path = str(folder.checkpoint(asked))
            return folder
        file = find_checkpoint(asked)
        if file.is_dir():
            raise UserError(
                f"{asked} holds a captioner without its training's state, which caption, serve and export take but "
                f"{command} does not: name a run's checkpoint."
            )
        self.options.ckpt_path = str(file)
        if file.parent.name == "checkpoints" and (command == "fit" or not self.named):
            return RunFolder.of(file)
        return RunFolder.new(self.options.runs, name)

    def _config_name(self) -> str:
        """The config file's name; the run's if it is a run's own config."""
        if folder := self._own_folder():
            return folder.path.name
        configs = self.options.get("config")
        return Path(str(configs[-1])).stem if configs else _class_name(self.options.model.decoder).lower()

    def _own_folder(self) -> RunFolder | None:
        """The run whose own configuration is taken."""
        configs = [Path(str(path)) for path in self.options.get("config") or []]
        return RunFolder(configs[-1].parent) if configs and configs[-1].name == "config.yaml" else None

    def before_instantiate_classes(self) -> None:
        """Point checkpoints and loggers into the run's folder; of several processes the first one's counts."""
        self.options.checkpoint.dirpath = str(self.folder.checkpoints)
        loggers = self.options.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger") and is_first():
                configure_wandb(logger.init_args, self.folder, self.config.subcommand, self._tags())

    def after_fit(self) -> None:
        """Test, where it is asked for."""
        left = self.folder.left()
        if self.options.test_best and left:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=str(left), verbose=False)

    def _tags(self) -> tuple[str, ...]:
        """By which a run is found among others at W&B."""
        model = self.options.model
        names = (model.encoder.init_args.get("name"), _class_name(model.decoder))
        return (*filter(None, names), f"seed {self.options.seed_everything}")

    def instantiate_trainer(self, **options: Any) -> L.Trainer:
        """Add the callbacks that every command has."""
        self._dump_config()
        self.model.awaits_checkpoint = self.resumes
        fresh = self.subcommand == "fit" and not self.resumes
        config = self.config_dump if fresh else None
        callbacks: list[L.Callback] = [Recorder(self.folder, config, self.options.seed_everything)]
        # `save_last` would write it only together with a better one
        callbacks.append(ModelCheckpoint(self.folder.checkpoints, "last", enable_version_counter=False))
        if self.options.trainer.logger:
            callbacks.append(LearningRateMonitor("step"))
        self.trainer_defaults["callbacks"] = callbacks
        trainer = super().instantiate_trainer(default_root_dir=str(self.folder.path), **options)
        stop_together(trainer)
        begin_logging(trainer.loggers, config)
        return trainer


def _try_whole_numbers_first() -> None:
    """Give the Trainer's `int | float` options this order of types.

    `typing` caches unions without regard to order, so that some other library's `float | int` may stand there, by which
    `limit_test_batches` of 1 (batch) would be read as 1.0 (all batches).
    """
    annotations = inspect.unwrap(L.Trainer.__init__).__annotations__
    for name, annotation in annotations.items():
        if annotation == int | float | None:
            annotations[name] = None | int | float


def _class_name(part: Any) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def main(arguments: list[str]) -> int:
    """Run one of the four commands; the exit status is that of SIGTERM where it was stopped so.

    Raises:
        UserError: the user's mistake.
    """
    end_together()
    try:
        with wandb_run():
            cli = CapbenchCLI(with_own_config(arguments))
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except SIGTERMException:
        return 128 + signal.SIGTERM
    if cli.trainer.is_global_zero:
        print_summary(cli.subcommand, cli.folder, cli.trainer)
        if cli.subcommand == "fit" and cli.options.test_best:
            print_summary("test", cli.folder, cli.trainer)
    return 0


def with_own_config(arguments: list[str]) -> list[str]:
    """Where only a checkpoint is named, it is found or fetched, and the configuration that lies with it is taken."""
    named = any(argument in ("-c", "--config") or argument.startswith("--config=") for argument in arguments)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        end = place + 1 if equals else place + 2
        value = value or "".join(arguments[place + 1 : end])
        if option == "--ckpt_path" and not named and value not in ("best", "last"):
            file = find_checkpoint(value)
            arguments = [*arguments[:place], f"--ckpt_path={file}", *arguments[end:]]
            config = RunFolder.of(file).config
            if config.is_file():
                return [arguments[0], "--config", str(config), *arguments[1:]]
            return arguments
    return arguments
