"""The database of a sweep's study: a SQLite file on one machine, or a server that several machines share."""

import fcntl
import functools
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import optuna
import sqlalchemy
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from capbench.errors import UserError

HEARTBEAT, GRACE = 30, 180
"""Seconds between two signs of life, and without one until a trial on another machine counts as dead."""

PATIENCE = 300.0
"""Seconds for which a database that does not answer is asked again."""

WAIT = 1.0
"""Seconds before it is asked again."""

CONNECT: dict[str, dict[str, Any]] = {"sqlite": {"timeout": 60}, "postgresql": {"connect_timeout": 15}}
"""What drivers are told of waiting."""

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Asking")


class Asking(Protocol):
    """Whatever asks a database."""

    database: "Database"


def patient(call: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Ask a database again that does not answer.

    Raises:
        UserError: it does not for too long.
    """

    @functools.wraps(call)
    def asking(self: S, /, *args: P.args, **options: P.kwargs) -> R:
        began = time.monotonic()
        while True:
            try:
                return call(self, *args, **options)
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                if time.monotonic() - began > PATIENCE:
                    reason = f"{self.database.name} does not answer ({_reason(error)})"
                    raise UserError(f"{reason}: once it does, the same command goes on.") from error
                time.sleep(WAIT)

    return asking


class Database:
    """A database with Optuna's tables.

    Args:
        url: in SQLAlchemy's way.

    Attributes:
        name: the URL without its password.
        storage: what Optuna keeps its studies in.

    Raises:
        UserError: it cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = _url(url)
        self.name = self.url.render_as_string(hide_password=True)
        self.kind = self.url.get_backend_name()
        with self._file_lock():
            self.storage = self._open()

    @contextmanager
    def alone(self, study: int) -> Iterator[None]:
        """No other process is in here for the same study; one that dies in here lets the others in."""
        if self.kind == "sqlite":
            with self._file_lock():
                yield
            return
        attributes = sqlalchemy.table("study_user_attributes", sqlalchemy.column("study_id"))
        rows = sqlalchemy.select(attributes).where(attributes.c.study_id == study)
        with self.storage.engine.begin() as connection:
            if self.kind == "postgresql":  # which does not hear that a machine was cut off
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '60s'")
            connection.execute(rows.with_for_update())
            yield

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """Nobody else makes or fills a SQLite file meanwhile."""
        if self.kind != "sqlite" or not self.url.database:
            yield
            return
        file = Path(self.url.database)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open(self) -> optuna.storages.RDBStorage:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")  # the sweep beats by itself
        options: dict[str, Any] = {"connect_args": CONNECT.get(self.kind, {}), "pool_pre_ping": self.kind != "sqlite"}
        text = (
            self.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        )  # to Optuna a template
        make = functools.partial(optuna.storages.RDBStorage, text, engine_kwargs=options)
        make = functools.partial(make, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        try:
            sqlalchemy.create_engine(self.url, **options).connect().close()
            for _ in range(5):  # two that make the tables at once are in each other's way
                with suppress(optuna.exceptions.StorageInternalError, SQLAlchemyError):
                    return make()
                time.sleep(random.random())
            return make()
        except ImportError as error:
            package = "capbench[postgresql]" if self.kind == "postgresql" else "its driver"
            raise UserError(f"{self.name} needs a package that is not installed: pip install {package}") from error
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, RuntimeError) as error:
            raise UserError(
                f"{self.name} cannot be used as the sweep's database ({_reason(error)}): start it, or name another "
                "with --storage."
            ) from error


def _url(text: str) -> sqlalchemy.URL:
    try:
        url = sqlalchemy.make_url(text)
    except ArgumentError as error:
        raise UserError(
            f"{text} is no database's URL: write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from error
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgresql", "postgres") else url


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
