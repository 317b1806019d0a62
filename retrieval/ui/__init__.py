"""The page: gradio Blocks over `retrieval.search`."""

from retrieval.ui.quick_gradio import without_stubs

without_stubs()
