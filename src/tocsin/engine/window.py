"""How many attempts of one handler may be in flight: as many as its answers justify.

The limit starts at two and grows by one with each answer while the handler has more to send than the limit lets out (slow start,
RFC 5681 3.1). By Little's law `n` in flight that take `t` seconds each carry `n / t` a second. While more in flight carries more, the
limit goes on growing, however far away the receiver is. When it does not, the receiver is saturated and only answers later: the limit
returns to where the gain ended and is probed again from time to time (the full-pipe check of BBR's startup, draft-ietf-ccwg-bbr 5.3.1.2).
A round's rate is the median over its attempts, so a long tail is not taken for saturation. A round in which more than a tenth
of the answers were server errors or throttles halves the limit (RFC 5681 3.1); single errors do not, since at a hundred in flight they
would keep every busy handler slow.
"""

FIRST_LIMIT = 2
MAX_LIMIT = 256
MIN_ANSWERS = 32  # in a round that is judged; fewer say too little if answer times vary widely
MIN_GAIN = 0.4  # of the growth in flight must show in the rate
JUDGED_GROWTH = 2.0  # in flight, compared with the best so far; a smaller step is lost in noise
REST_ROUNDS = 20  # until the next probe
MAX_STRAINED = 0.1  # share of a round's answers
ANSWERS_PER_STEP = 4  # when it grows carefully


class Window:
    """`limit` may be read at any time. The caller reports each answer, and sets `is_full` when the limit held an attempt
    back."""

    __slots__ = (
        "_best_flying",
        "_best_rate",
        "_climbs",
        "_flying",
        "_is_slow_start",
        "_rates",
        "_rested",
        "_round",
        "_strained",
        "_to_step",
        "is_full",
        "limit",
    )

    def __init__(self, limit: int = FIRST_LIMIT, *, is_slow_start: bool = True) -> None:
        self.limit = limit
        self.is_full = False
        self._is_slow_start = is_slow_start
        self._climbs = True
        self._to_step = ANSWERS_PER_STEP  # answers until it grows
        self._rested = 0
        self._best_rate = 0.0
        self._best_flying = 0.0
        self._round = MIN_ANSWERS  # answers that end the current round
        self._rates: list[float] = []
        self._flying = 0
        self._strained = 0

    def answered(self, seconds: float, flying: int, strained: bool) -> None:
        """An answer came after `seconds`; `flying` were in flight when it began. `strained`: it was a server error or a throttle."""
        self._rates.append(flying / max(seconds, 1e-6))
        self._flying += flying
        if strained:
            self._strained += 1
            if self._strained > MAX_STRAINED * self._round:
                self._end_round()
                return
        elif self.is_full and self._climbs and self.limit < MAX_LIMIT:
            self._to_step -= 1
            if self._is_slow_start or self._to_step <= 0:
                self._to_step = ANSWERS_PER_STEP
                self.limit += 1
        if len(self._rates) >= self._round:
            self._end_round()

    def _end_round(self) -> None:
        rates, flying = self._rates, self._flying / len(self._rates)
        if self._strained > MAX_STRAINED * self._round:
            self._rest(max(1, self.limit // 2))
        elif self.is_full:
            self._judge(sorted(rates)[len(rates) // 2], flying)
        self._round = max(self.limit, MIN_ANSWERS) if self._climbs else self.limit
        self._rates = []
        self._flying = self._strained = 0
        self.is_full = False

    def _judge(self, rate: float, flying: float) -> None:
        """`rate`: what `flying` attempts carried, in messages a second."""
        if not self._climbs:
            self._rested += 1
            self._best_rate += (rate - self._best_rate) / self._rested  # the mean rate at rest
            self._best_flying = float(self.limit)
            self._climbs = self._rested >= REST_ROUNDS
            return
        growth = flying / self._best_flying if self._best_flying else JUDGED_GROWTH
        if growth < JUDGED_GROWTH:
            return
        if rate >= self._best_rate * (1 + (growth - 1) * MIN_GAIN):
            self._best_rate, self._best_flying = rate, flying
        else:
            self._rest(max(1, round(self._best_flying)))

    def _rest(self, limit: int) -> None:
        """Hold the limit for some rounds."""
        self.limit = limit
        self._is_slow_start = self._climbs = False
        self._rested = 0
