"""What an administrator sees of the processes that share the store: who owns how much, who is silent, what waits."""

from starlette.responses import Response

from tocsin.ports.workers import WorkerLine
from tocsin.web.visit import Visit

SILENT_MS = 2000  # since its last beat: four of them are missing


async def page(visit: Visit) -> Response:
    overview = None if visit.service.workers is None else await visit.service.workers()
    return visit.page("_workers.html" if visit.is_fragment else "workers.html", overview=overview, state_of=state_of)


def state_of(worker: WorkerLine) -> str:
    if worker.beat_age_ms > SILENT_MS:
        return "silent"
    return "leaving" if worker.is_leaving else "alive"
