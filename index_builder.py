"""Build an index from a checkout; an installed package has the command `lookalike-index`."""

import sys

from retrieval.index_builder import main

if __name__ == "__main__":
    sys.exit(main())
