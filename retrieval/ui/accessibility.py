"""What gradio's widgets leave out for those who do not see the page, put in as they appear."""

import json
from pathlib import Path

from retrieval import words

JS = (
    (Path(__file__).parent / "accessibility.js")
    .read_text(encoding="utf-8")
    .replace("SAID", json.dumps(words.RESULTS_SAID))
)
"""To be run when the page has loaded; new results are said in `#announcement`."""
