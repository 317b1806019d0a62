"""Find the images of a gallery that are most similar to a query, by any feature type, metric and engine."""

import os

# Before the libraries are imported, which look at these then: nobody is told that or how this program is used.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
}.items():
    os.environ.setdefault(_name, _value)
