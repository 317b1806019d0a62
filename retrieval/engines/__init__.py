"""Search engines: each proposes candidates for a ranking."""
