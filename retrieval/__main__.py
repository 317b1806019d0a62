"""`python -m retrieval`."""

import gc
import sys

from retrieval.cli import main

code = main()
gc.freeze()  # otherwise Python visits all objects of torch and transformers once more when it ends, for a second
sys.exit(code)
