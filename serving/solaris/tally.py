"""A reader's answers as counts: gathered, and counted many at a time, so that an answer pays next to nothing for it."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np

from serving.compute.statistics import Statistics
from serving.solaris.answer import PairAnswer
from serving.solaris.levels import EXACT, NAMES
from serving.solaris.model import PairModel
from serving.solaris.statistics import READER

TOGETHER = 64
"""Answers."""


class Tally:
    """Of one reader. Thread-safe."""

    def __init__(self, model: PairModel) -> None:
        self.statistics, self._model = Statistics(READER), model
        self._lock = threading.Lock()
        self._answers: list[PairAnswer] = []

    def answered(self, answer: PairAnswer) -> None:
        """Count it, now or soon."""
        with self._lock:
            self._answers.append(answer)
            is_full = len(self._answers) >= TOGETHER
        if is_full:
            self.counted()

    def counted(self) -> Statistics:
        """The counts of all answers that there were."""
        with self._lock:
            answers, self._answers = self._answers, []
        if not answers:
            return self.statistics
        for outcome, number in Counter(answer.outcome for answer in answers).items():
            self.statistics.count("requests", number, outcome=outcome)
        levels = np.concatenate([answer.levels for answer in answers])
        for level, number in enumerate(np.bincount(levels, minlength=len(NAMES)).tolist()):
            self.statistics.count("served", number, level=NAMES[level])
        ages = np.concatenate([answer.ages_seconds for answer in answers])[levels == EXACT]
        self.statistics.took(ages.tolist())
        self.statistics.count("refreshes", int((ages > self._model.fresh_seconds).sum()))
        return self.statistics
