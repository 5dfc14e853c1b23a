"""The lanes, and what is remembered of handlers without one."""

from tocsin.engine.lanes import NEW, SILENT, TRUSTED, Lane, Turns
from tocsin.engine.window import FIRST_LIMIT, Window

MAX_IDLE = 1000  # empty lanes that are kept: making a new one for every delivery costs more
MAX_REMEMBERED = 50_000  # handlers without a lane
UNANSWERED_FOR_ONE_AT_A_TIME = 3  # attempts without any answer in a row


def cautious(lane: Lane) -> Window:
    """The window of a lane of which nothing recent is known, except how many attempts were not answered."""
    is_silent = lane.unanswered >= UNANSWERED_FOR_ONE_AT_A_TIME
    return Window(1, is_slow_start=False) if is_silent else Window(FIRST_LIMIT)


class Known(dict[int, Lane]):
    """Lanes by handler id. `ring`: where they wait for their turns."""

    def __init__(self, ring: Turns[Lane]) -> None:
        super().__init__()
        self.ring = ring
        self.remembered: dict[int, int] = {}
        """For handlers without a lane: how many attempts they could take, or minus the number that were not answered."""

    def lane(self, handler_id: int, user_id: int) -> Lane:
        """The handler's lane; makes one if there is none."""
        lane = self.get(handler_id)
        if lane is None:
            limit = self.remembered.get(handler_id, 0)
            lane = self[handler_id] = Lane(handler_id, user_id, TRUSTED if limit > 0 else SILENT if limit else NEW)
            if limit >= 0:
                lane.window = Window(limit or FIRST_LIMIT)
            else:
                lane.unanswered = -limit
                lane.window = cautious(lane)
            lane.own = self.ring.own(user_id)
        return lane

    def tidy(self, lane: Lane) -> None:
        """The lane is empty: if there are many lanes, drop it and remember what it has shown."""
        if len(self) <= MAX_IDLE:
            return
        self.pop(lane.handler_id, None)
        self.remembered.pop(lane.handler_id, None)
        if lane.trust == NEW:
            return
        if len(self.remembered) >= MAX_REMEMBERED:
            del self.remembered[next(iter(self.remembered))]
        self.remembered[lane.handler_id] = -lane.unanswered if lane.unanswered else lane.window.limit
