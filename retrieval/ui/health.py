"""`/health`: 200 when a search works, 503 and the reason when none does, for whatever watches over the app."""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from retrieval.health import Health

PATH = "/health"


def health_route(health: Health) -> Route:
    """Return the route that tells how a page is."""

    def tell(request: Request) -> JSONResponse:
        problem = health.problem()
        status = {"status": "ready"} if problem is None else {"status": "unavailable", "reason": problem}
        return JSONResponse(status, 503 if problem else 200, {"cache-control": "no-store"})

    return Route(PATH, tell, methods=["GET", "HEAD"])
