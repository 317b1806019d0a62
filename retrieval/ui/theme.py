"""The look: one theme and the little CSS that gradio's components need to sit well on a phone and in the dark."""

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    secondary_hue=gr.themes.colors.amber,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    # Fonts of the visitor's machine: a page that asks a font server tells it who is searching.
    font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SF Mono", "Consolas", "monospace"],
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_text_color="white",
    checkbox_label_background_fill_selected="*primary_600",
    checkbox_label_background_fill_selected_dark="*primary_600",
    checkbox_label_text_color_selected="white",
    checkbox_label_text_color_selected_dark="white",
)

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#title h1 { font-size: 2rem; margin: 0; letter-spacing: -0.02em; }
#title p { margin: 0.25rem 0 0; }
:is(button, input, textarea, select, a, [tabindex]):focus-visible {
  outline: 3px solid var(--primary-500) !important; outline-offset: 2px;
}

/* Results and examples: grids that follow the width; captions below the pictures, never cut to one line. */
:is(#results, .strip) .grid-container { height: auto; padding: 2.4rem 8px 8px; }
:is(#results, .strip) .grid-container { grid-auto-rows: max-content !important; }
:is(#results, .strip) .grid-wrap { max-height: none; height: auto; }
:is(#results, .strip) :is(.gallery-item, .thumbnail-lg) { aspect-ratio: auto; width: 100%; height: auto; }
:is(#results, .strip) img { aspect-ratio: 1; height: auto; width: 100%; object-fit: contain; background: white; }
#results .grid-container { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)) !important; gap: 8px; }
#results { min-height: 560px; }
#results .gallery-item { display: flex; }
#results .thumbnail-lg { display: flex; flex-direction: column; background: var(--block-background-fill); }
#results .caption-label {
  position: static; max-width: 100%; width: 100%; border: 0; border-radius: 0; padding: 6px 8px 8px; text-align: left;
  white-space: normal; overflow-wrap: anywhere; font-size: 0.82rem; line-height: 1.25;
  color: var(--body-text-color); background: none; opacity: 1 !important;
}
.strip .grid-container { grid-template-columns: repeat(auto-fill, minmax(48px, 1fr)) !important; gap: 6px; }
.strip .grid-wrap { min-height: 0; }
.strip .caption-label { display: none; }
/* One row of hits for each combination, as wide as the page allows, the rest by scrolling sideways. */
.hits { contain: inline-size; }
.hits .grid-wrap { min-height: 140px; overflow-x: auto; }
.hits .grid-container { display: flex !important; padding: 4px !important; }
.hits .gallery-item { flex: 0 0 82px; }
:is(#figures, #figures_plot) { contain: inline-size; }
.hits .caption-label {
  display: block; position: static; border: 0; padding: 2px 4px; max-width: 100%; white-space: normal;
  font-size: 0.7rem; line-height: 1.2; color: var(--body-text-color); background: none; opacity: 1 !important;
}
.hits .thumbnail-lg { display: flex; flex-direction: column; background: var(--block-background-fill); }
.comparison p { font-size: 0.85rem; }
/* Robustness: room is kept for what comes, so that nothing jumps when it does. */
.labelled .grid-container { padding-top: 2.2rem !important; }
.labelled .grid-wrap { min-height: 212px; }
#robustness_note { min-height: 3.4rem; }
:is(#robustness_note, #sweep_state, .withstood) p { font-size: 0.9rem; font-variant-numeric: tabular-nums; margin: 0; }
#sweep_state { min-height: 2.8rem; }
:is(#sweep_table, #sweep_plot) { contain: inline-size; }
#sweep_plot img { max-width: 640px; width: 100%; }
/* A click makes a picture the query and the results change: there is nothing that stays chosen. */
:is(#results, .strip) .thumbnail-item.selected { border-color: var(--border-color-primary); box-shadow: none; }
#about p { font-size: 0.85rem; }
#timings p { font-variant-numeric: tabular-nums; font-size: 0.85rem; margin: 0; }
#explanation p { font-size: 0.95rem; margin: 0; }
@media (max-width: 640px) {
  #results .grid-container { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)) !important; }
  #results { min-height: 420px; }
  .tab-container button { padding: 0 8px; }  /* as many tabs as there is room for; the rest is in gradio's menu */
  #examples, #trail { contain: inline-size; }
  :is(#examples, #trail) .grid-wrap { overflow-x: auto; }
  :is(#examples, #trail) .grid-container { display: flex !important; }
  :is(#examples, #trail) .gallery-item { flex: 0 0 48px; }
}
"""
