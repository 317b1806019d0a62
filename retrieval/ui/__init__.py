"""The web page: gradio Blocks on top of `retrieval.search`."""

from retrieval.ui.serving.gradio_patches import skip_type_stubs

skip_type_stubs()  # before any module below imports gradio
