"""Negatives: every click becomes a group of one clicked article and some that others clicked shortly before.

The pool of a click is the `pool_clicks` newest clicks of the log strictly before it; before the day's first
ones stands the newest click of each user of the days before. A negative is a click drawn uniformly from the
pool: of another user, of another article than the click's, than the group's other negatives and than the
session's so far. Later clicks of the session are not looked at: that would be knowing the future.

Popularity is how often the pool has the article, the drawn click itself not counted. This leaving out is what
makes popularity honest: a positive's own click is not in its pool either, whereas a drawn article would
always have been seen at least once, and "never seen" would give the positive away.

Draws are addressed by (seed, user, session, place in the session), and so depend on nothing later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.sources.draws import mix, uniform
from features.sources.globo import GloboClicks
from features.sources.ragged import Ints

Mask = npt.NDArray[np.bool_]
_ROUNDS = 8
_SHUFFLE = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Clicks:
    """The day's accepted clicks in order of time, [n] each. `place` counts from 0 within the session."""

    user: Ints
    session: Ints
    article: Ints
    time_ms: Ints
    place: Ints


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """One row per example, groups in order of time: the click it belongs to, its article, its popularity and
    whether it was the one clicked; the order within a group is shuffled."""

    click: Ints
    article: Ints
    recent_clicks: Ints
    clicked: Mask


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """The log as one sequence of clicks: the state's first, then the day's."""

    user: Ints
    article: Ints
    first: Ints
    """[n] where each click's pool begins in the sequence."""
    end: Ints
    """[n] where it ends: the clicks strictly before."""


def candidates(clicks: Clicks, *, before_user: Ints, before_article: Ints, config: GloboClicks) -> Candidates:
    """The groups of all clicks. `before_…`: every user's newest click of the days before, oldest first."""
    before_user, before_article = before_user[-config.pool_clicks :], before_article[-config.pool_clicks :]
    end = len(before_user) + np.searchsorted(clicks.time_ms, clicks.time_ms, side="left")
    pool = _Pool(
        user=np.concatenate([before_user, clicks.user]),
        article=np.concatenate([before_article, clicks.article]),
        first=np.maximum(end - config.pool_clicks, 0),
        end=end,
    )
    drawn = _draw(clicks, pool, config)  # [n, J], places in the pool, -1 for none
    article = np.column_stack([clicks.article, pool.article[drawn]])
    present = np.column_stack([(drawn >= 0).any(1), drawn >= 0])  # [n, 1 + J]
    slot = np.broadcast_to(np.arange(1 + config.negatives), article.shape)
    key = mix(config.seed, _SHUFFLE, clicks.user[:, None], clicks.session[:, None], clicks.place[:, None], slot)
    shuffled = np.argsort(key, axis=1, kind="stable")
    slot, article, present = (np.take_along_axis(grid, shuffled, 1) for grid in (slot, article, present))
    click = np.broadcast_to(np.arange(len(end))[:, None], present.shape)[present]
    rows, clicked = article[present], slot[present] == 0
    return Candidates(click=click, article=rows, recent_clicks=_recent(pool, click, rows) - ~clicked, clicked=clicked)


def _draw(clicks: Clicks, pool: _Pool, config: GloboClicks) -> Ints:
    drawn = np.full((len(clicks.user), config.negatives), -1, np.int64)
    enough = np.flatnonzero(pool.end - pool.first >= config.pool_min)
    seen = _Seen(clicks)
    for slot in range(config.negatives):
        waiting = enough
        for attempt in range(_ROUNDS):
            at = clicks.user[waiting], clicks.session[waiting], clicks.place[waiting]
            draw = uniform(config.seed, *at, slot, attempt)
            first, end = pool.first[waiting], pool.end[waiting]
            entry = first + (draw * (end - first)).astype(np.int64)
            article = pool.article[entry]
            good = (pool.user[entry] != at[0]) & ~seen.by(waiting, article)
            for other in range(slot):
                chosen = drawn[waiting, other]
                good &= (chosen < 0) | (pool.article[chosen] != article)
            drawn[waiting[good], slot] = entry[good]
            waiting = waiting[~good]
    return drawn


class _Seen:
    """Answers whether a session had clicked an article up to and with a click."""

    def __init__(self, clicks: Clicks) -> None:
        self._articles = np.unique(clicks.article)
        _, user = np.unique(clicks.user, return_inverse=True)
        sessions, session = np.unique(clicks.session, return_inverse=True)
        _, self._visit = np.unique(user * len(sessions) + session, return_inverse=True)
        keys = self._key(np.arange(len(clicks.user)), clicks.article)
        order = np.argsort(keys, kind="stable")  # stable: a session's first click of an article comes first
        self._keys, self._first, self._place = keys[order], clicks.place[order], clicks.place

    def _key(self, click: Ints, article: Ints) -> Ints:
        keys: Ints = self._visit[click] * len(self._articles) + np.searchsorted(self._articles, article)
        return keys

    def by(self, click: Ints, article: Ints) -> Mask:
        """Whether `article[i]` is among the session's clicks up to and with `click[i]`."""
        key = self._key(click, article)
        found = np.searchsorted(self._keys, key).clip(0, len(self._keys) - 1)
        seen: Mask = (self._keys[found] == key) & (self._first[found] <= self._place[click])
        return seen & np.isin(article, self._articles)


def _recent(pool: _Pool, click: Ints, article: Ints) -> Ints:
    """How often the click's pool has the article."""
    codes = np.unique(np.concatenate([pool.article, article]), return_inverse=True)[1]
    length = len(pool.article) + 1
    keys = np.sort(codes[: len(pool.article)] * length + np.arange(len(pool.article)))
    wanted = codes[len(pool.article) :] * length
    until, since = pool.end[click], pool.first[click]
    counts: Ints = np.searchsorted(keys, wanted + until) - np.searchsorted(keys, wanted + since)
    return counts
