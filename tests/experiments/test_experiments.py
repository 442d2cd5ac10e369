"""Experiments take minutes and run by hand; here they at least still fit the code that they measure."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest

import tests.experiments

NAMES = [module.name for module in iter_modules(tests.experiments.__path__) if not module.name.startswith("test_")]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_can_be_imported(name: str) -> None:
    import_module(f"tests.experiments.{name}")
