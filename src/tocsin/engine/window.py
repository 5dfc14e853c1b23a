"""How many attempts of one handler may be in flight: as many as its answers earn.

The limit starts at two and grows by one with each answer while the handler has more to send than the limit lets out (slow start,
RFC 5681 3.1). By Little's law a limit of `n` and an answer time of `t` carry `n / t` a second. While a larger limit carries more, it
goes on growing, however far away the receiver is. Where it does not, the receiver is saturated and only answers later: the limit
returns to where the gain ended and is probed again now and then (the full-pipe check of BBR's startup, draft-ietf-ccwg-bbr 5.3.1.2).
The answer time is a round's median, so a long tail says nothing about saturation. A round in which more than a tenth of the answers
were server errors or throttles halves the limit (RFC 5681 3.1); single errors do not, since at a hundred in flight they would keep
every busy handler slow.
"""

FIRST_LIMIT = 2
MAX_LIMIT = 256
LEAST_JUDGED = 16  # a smaller round tells little about the answer time, and a receiver that cannot take 16 is rare
FLAT_ROUNDS = 3  # rounds without gain that end the growth
REST_ROUNDS = 20  # rounds until the next probe
LEAST_GAIN = 1 / 3  # of the growth of the limit must be seen in what it carries
MAX_STRAINED = 0.1  # share of a round's answers


class Window:
    """`limit` may be read at any time. Whoever follows the attempts tells of each answer, and sets `is_full` when the limit held one
    back."""

    __slots__ = (
        "_best_limit",
        "_best_rate",
        "_climbs",
        "_flat",
        "_is_slow_start",
        "_rested",
        "_round",
        "_strained",
        "_times",
        "is_full",
        "limit",
    )

    def __init__(self, limit: int = FIRST_LIMIT, *, is_slow_start: bool = True) -> None:
        self.limit = limit
        self.is_full = False
        self._is_slow_start = is_slow_start
        self._climbs = True
        self._flat = 0
        self._rested = 0
        self._best_rate = 0.0
        self._best_limit = limit
        self._round = limit  # answers that end the present round
        self._times: list[float] = []
        self._strained = 0

    def answered(self, seconds: float, strained: bool) -> None:
        """An answer came after `seconds`; `strained`: it was a server error or a throttle."""
        times = self._times
        times.append(seconds)
        if strained:
            self._strained += 1
        elif self.is_full and self._climbs and self.limit < MAX_LIMIT and (self._is_slow_start or len(times) % 4 == 0):
            self.limit += 1
        if len(times) >= self._round:
            self._end_round()

    def _end_round(self) -> None:
        times = self._times
        if self._strained > MAX_STRAINED * len(times):
            self._rest(max(1, self._round // 2))
        elif self.is_full and self._round >= LEAST_JUDGED:
            self._judge(self._round / max(sorted(times)[len(times) // 2], 1e-6))
        elif not self._climbs:
            self._count_rest()
        self._round = self.limit
        self._times = []
        self._strained = 0
        self.is_full = False

    def _judge(self, rate: float) -> None:
        """`rate`: what the limit of this round carried, in messages a second."""
        if not self._climbs:
            self._count_rest()
            self._best_rate, self._best_limit = rate, self._round
            return
        wanted = 1 + (self._round / self._best_limit - 1) * LEAST_GAIN
        if rate >= self._best_rate * wanted:
            self._best_rate, self._best_limit, self._flat = rate, self._round, 0
            return
        self._flat += 1
        if self._flat == FLAT_ROUNDS:
            self._rest(self._best_limit)

    def _rest(self, limit: int) -> None:
        """Hold the limit for some rounds."""
        self.limit = limit
        self._is_slow_start = self._climbs = False
        self._flat = self._rested = 0

    def _count_rest(self) -> None:
        """One round of rest is over."""
        self._rested += 1
        if self._rested >= REST_ROUNDS:
            self._climbs, self._flat = True, 0
