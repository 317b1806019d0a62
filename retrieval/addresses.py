"""How the addresses of datasets begin, and what a commit looks like; without huggingface_hub, which imports slowly."""

import re

HUB, MOUNTED = "hf://datasets/", "file://"
COMMIT = re.compile("[0-9a-f]{40}")
