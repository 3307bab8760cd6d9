"""Encoders and decoders as plain data, so that a checkpoint can hold them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from capbench.errors import UserError

Part = TypeVar("Part")


def part_class(factory: Callable[..., Part]) -> type[Part]:
    """The class that a factory builds: itself a class, or a `functools.partial` over one."""
    candidates = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)
    return next(candidate for candidate in candidates if isinstance(candidate, type))


def to_plain(factory: Callable[..., Part]) -> dict[str, Any]:
    """A factory as `class_path` and `init_args`."""
    cls = part_class(factory)
    arguments = dict(factory.keywords) if isinstance(factory, partial) else {}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def from_plain(plain: dict[str, Any], base: type[Part]) -> Callable[..., Part]:
    """The factory that `to_plain` described.

    Raises:
        UserError: the class cannot be imported, or is no subclass of `base`.
    """
    module, _, name = plain["class_path"].rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{plain['class_path']} cannot be imported here ({error}): it is the user's own class, so put its file "
            "on PYTHONPATH."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(f"{plain['class_path']} is no {base.__name__}.")
    return partial(cls, **plain["init_args"])
