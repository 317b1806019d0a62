"""Search engines: each proposes candidates for a ranking. Add one by writing a file and listing it in `ENGINES`."""

from retrieval.engines.base import Engine
from retrieval.engines.chroma import ChromaEngine
from retrieval.engines.exact import ExactEngine

__all__ = ["AUTO", "DEFAULT_ENGINE", "ENGINES"]

ENGINES: dict[str, Engine] = {each.name: each for each in (ExactEngine(), ChromaEngine())}
DEFAULT_ENGINE = ExactEngine.name
AUTO = "auto"  # leaves the choice to `retrieval.engines.choice`
