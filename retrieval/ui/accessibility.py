"""What gradio's widgets leave out for those who do not see the page, put in as they appear."""

import json

from retrieval.ui.scripts import beside

RESULTS_SAID = "{count} images found, the closest: {first}"
JS = beside(__file__, "accessibility.js").replace("SAID", json.dumps(RESULTS_SAID))
"""To be run when the page has loaded; new results are said in `#announcement`."""
