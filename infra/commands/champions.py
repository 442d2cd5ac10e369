"""What `infra up --serve` does after the days: fill the feature store, start the online service, show a request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from infra import online
from infra.settings import Settings

if TYPE_CHECKING:
    from snapshots.registry import Version

Say = Callable[[str], None]

_SHOWN = 3
"""Numbers of a vector."""
_ANSWER_SECONDS = 5.0
_NEWS_SECONDS, _POLL_SECONDS = 10.0, 0.5
"""The service learns of a new version within seconds."""


def serve_champions(settings: Settings, *, say: Say) -> tuple[str, ...]:
    """Load the promoted embeddings and start the online service; the user models that are served now.

    One that has no champion yet is told, and served from the next call on. ServiceError: the service does not start.
    """
    from dags.steps import load_embeddings
    from infra import services
    from snapshots.registry import Registry

    registry = Registry(settings)
    ready = tuple(model for model in settings.served if "champion" in registry.aliases(model))
    for model in set(settings.served) - set(ready):
        say(f"{model}: nothing to serve yet; infra/up --recipe {model} promotes a day")
    for model in ready:
        days = load_embeddings(model, None)["days"]
        say(f"{model}: {len(days)} promoted days, the last {days[0]['ds']}, are in the feature store")
    if ready:
        services.serve(settings, progress=say)
    return ready


def request_and_answer(settings: Settings, models: Sequence[str]) -> str:
    """Where the service is, a request for a user that it knows, and its answer with vectors cut short. models: at least
    one that is served; those of another source than the first know other users, and are left out."""
    from snapshots.registry import Registry
    from trainer.recipes import get_recipe

    source = get_recipe(models[0]).source.name
    asked = [model for model in models if get_recipe(model).source.name == source]
    champions = {model: Registry(settings).alias(model, "champion") for model in asked}
    newest = {model: champion.number for model, champion in champions.items() if champion is not None}
    first, where = champions[models[0]], online.address(settings, online.HTTP)
    assert first is not None
    query = "&".join(f"model={model}" for model in asked)
    url = f"{where}/v1/users/{_some_user(settings, first)}/embeddings?{query}"
    answer, deadline = _answer(url, settings), time.monotonic() + _NEWS_SECONDS
    while _served(answer, asked) != newest and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        answer = _answer(url, settings)
    return f"Serving  {where}\ncurl '{url}'\n{json.dumps(_short(answer), ensure_ascii=False)}"


def _served(answer: Any, models: Sequence[str]) -> dict[str, int | None]:
    return {model: answer["embeddings"][model]["served_version"] for model in models}


def _answer(url: str, settings: Settings) -> Any:
    import httpx

    from serving.secured.ask import options

    answer = httpx.get(url, timeout=_ANSWER_SECONDS, **options(settings))
    answer.raise_for_status()
    return answer.json()


def _some_user(settings: Settings, champion: Version) -> int:
    """The first of its day."""
    from features.lake import Lake
    from features.schema import USER_ID

    assert champion.visible is not None
    rows = Lake(settings.lake).dataset(champion.visible).head(1, columns=[USER_ID])
    return int(rows.column(USER_ID)[0].as_py())


def _short(value: Any) -> Any:
    """A JSON value whose lists of numbers show their beginning."""
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, list) and len(value) > _SHOWN and not isinstance(value[0], (dict, list)):
        return [*(round(one, 3) for one in value[:_SHOWN]), "…"]
    return [_short(one) for one in value] if isinstance(value, list) else value
