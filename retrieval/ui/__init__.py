"""The page: gradio Blocks over `retrieval.search`."""
