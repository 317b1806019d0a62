"""An index on a ChromaDB server."""
