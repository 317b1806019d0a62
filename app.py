"""Start the page from a checkout; an installed package has the command `lookalike`."""

from retrieval.app import run

if __name__ == "__main__":
    run()
