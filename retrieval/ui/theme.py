"""The look of the page: a theme, and the CSS that gradio's components need on phones and in dark mode."""

import gradio as gr

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    secondary_hue=gr.themes.colors.amber,
    neutral_hue=gr.themes.colors.slate,
    radius_size=gr.themes.sizes.radius_lg,
    # Fonts of the visitor's machine, because a font server would learn who is searching.
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

/* Results and examples: grids that adapt to the width, with full captions below the images. */
:is(#results, .strip) .grid-container { height: auto; padding: 2.4rem 8px 8px; }
:is(#results, .strip) .grid-container { grid-auto-rows: max-content !important; }
:is(#results, .strip) .grid-wrap { max-height: none; height: auto; }
:is(#results, .strip) :is(.gallery-item, .thumbnail-lg) { aspect-ratio: auto; width: 100%; height: auto; }
:is(#results, .strip) img { aspect-ratio: 1; height: auto; width: 100%; object-fit: contain; background: white; }
#results .grid-container { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)) !important; gap: 8px; }
#results { min-height: 470px; }
/* Placeholder tiles while the first results are loading. */
#results:has(.wrap.translucent:not(.hide)) .empty {
  position: absolute; inset: 2.4rem 16px 8px; height: auto; min-height: 0;
  background: repeating-linear-gradient(90deg, var(--border-color-primary) 0 104px, transparent 104px 112px);
  mask: repeating-linear-gradient(black 0 168px, transparent 168px 176px);
  animation: waiting 1.2s ease-in-out infinite alternate;
}
#results:has(.wrap.translucent:not(.hide)) .empty > * { display: none; }
@keyframes waiting { from { opacity: 0.35; } to { opacity: 0.9; } }
@media (prefers-reduced-motion: reduce) { #results .empty { animation: none !important; } }
#results .gallery-item { display: flex; }
#results .thumbnail-lg { display: flex; flex-direction: column; background: var(--block-background-fill); }
#results .caption-label {
  position: static; max-width: 100%; width: 100%; border: 0; border-radius: 0; padding: 6px 8px 8px; text-align: left;
  white-space: normal; overflow-wrap: anywhere; font-size: 0.82rem; line-height: 1.25;
  color: var(--body-text-color); background: none; opacity: 1 !important;
}
/* The part of the query image to search with. */
#query .image-frame img { object-fit: contain; }
:is(#region, #link) { font-size: 0.85rem; }
:is(#region, #link) .html-container { padding: 0; }
#link a { text-decoration: underline; display: inline-block; padding: 4px 2px; min-height: 28px; }
:is(#region, #link) button { text-decoration: underline; cursor: pointer; padding: 4px 2px; min-height: 28px; }
:is(#region, #link) [role="status"] { margin-left: 10px; }
#region { margin: -8px 0; }
#link :not(.there) > :is(a, button) { display: none; }
#region button:disabled { display: none; }
.region-layer { position: absolute; cursor: crosshair; overflow: hidden; }
.region-layer.drawn { touch-action: none; }
.region-box {
  position: absolute; cursor: move; outline: 2px solid white; border: 2px dashed var(--primary-700);
  box-shadow: 0 0 0 9999px rgb(0 0 0 / 55%);
}
.region-box[hidden] { display: none; }
.region-box:focus-visible { outline: 3px solid var(--primary-500); }
.region-corner {
  position: absolute; right: 0; bottom: 0; width: 24px; height: 24px; cursor: nwse-resize;
  background: linear-gradient(135deg, transparent 50%, var(--primary-600) 50%);
}
.strip .grid-container { grid-template-columns: repeat(auto-fill, minmax(48px, 1fr)) !important; gap: 6px; }
.strip .grid-wrap { min-height: 0; }
.strip .caption-label { display: none; }
/* One row of hits for each combination, which scrolls sideways. */
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
/* A slider's handle is white, so it needs a border on a white page. */
input[type="range"]::-webkit-slider-thumb { border: 2px solid var(--primary-600) !important; }
input[type="range"]::-moz-range-thumb { border: 2px solid var(--primary-600) !important; }
/* The Galleries tab. */
#build_state progress {
  appearance: none; width: 100%; height: 0.8rem; border: 1px solid var(--neutral-500); border-radius: 0.4rem;
  overflow: hidden; background: var(--block-background-fill);
}
#build_state progress::-webkit-progress-bar { background: none; }
#build_state progress::-webkit-progress-value { background: var(--primary-500); }
#build_state progress::-moz-progress-bar { background: var(--primary-500); }
#build_state progress:not([value]) {
  background: repeating-linear-gradient(45deg, var(--primary-500) 0 0.5rem, transparent 0.5rem 1rem);
}
#build_state progress:not([value])::-moz-progress-bar { background: none; }
:is(#build_state, #build_found) p { margin: 0.25rem 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
:is(#galleries, #skipped) { contain: inline-size; }
:is(#galleries, #skipped) :is(th, td) { font-size: 0.8rem; }
/* Robustness: the space for results is reserved, so that nothing moves when they arrive. */
.labelled .grid-container { padding-top: 2.2rem !important; }
.labelled .grid-wrap { min-height: 212px; }
#robustness_note { min-height: 3.4rem; }
:is(#robustness_note, #sweep_state, .withstood) p { font-size: 0.9rem; font-variant-numeric: tabular-nums; margin: 0; }
#sweep_state { min-height: 2.8rem; }
:is(#sweep_table, #sweep_plot) { contain: inline-size; }
#sweep_plot img { max-width: 640px; width: 100%; }
/* A click makes an image the new query and the results change, so none stays selected. */
:is(#results, .strip) .thumbnail-item.selected { border-color: var(--border-color-primary); box-shadow: none; }
#about p { font-size: 0.85rem; }
#timings p { font-variant-numeric: tabular-nums; font-size: 0.85rem; margin: 0; }
#explanation p { font-size: 0.95rem; margin: 0; }
@media (max-width: 640px) {
  #results .grid-container { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)) !important; }
  #results { min-height: 730px; }
  #examples, #trail { contain: inline-size; }
  :is(#examples, #trail) .grid-wrap { overflow-x: auto; }
  :is(#examples, #trail) .grid-container { display: flex !important; }
  :is(#examples, #trail) .gallery-item { flex: 0 0 48px; }
  /* Fits all five columns of the figures without breaking a word or a number. */
  #figures :is(th, .virtual-row) * { font-family: var(--font) !important; font-size: 0.74rem !important; }
  #figures :is(th, td) { padding: 4px 0 4px 2px !important; }
  #figures .cell-wrap { padding-inline: 2px !important; }
}

/* Accessibility: contrast, size of tap targets, and text for screen readers only. */
[role=tab].selected { color: var(--primary-700) !important; }
.dark [role=tab].selected { color: var(--primary-300) !important; }
/* The focus ring goes around a toggle, because inside a selected one it would be indigo on indigo. */
label:has(> :is([type=radio], [type=checkbox]):focus-visible) {
  outline: 3px solid var(--primary-500); outline-offset: 2px;
}
label > :is([type=radio], [type=checkbox]):focus-visible { outline: none !important; }
::placeholder { color: var(--neutral-600) !important; opacity: 1 !important; }
.dark ::placeholder { color: var(--neutral-300) !important; }
.pending { opacity: 0.8 !important; }
:is(.icon-button, .source-selection button, .reset-button, footer button, .label-wrap) {
  min-width: 24px; min-height: 24px;
}
:is(.head input[type=number], input[type=range], input[role=combobox]) { min-height: 24px; }
/* Tabs that do not fit wrap into a second row; gradio would move them into a menu. */
.tab-container.visually-hidden button { width: 0; min-width: 0; padding: 0; font-size: 0; }
.tab-container[role=tablist] { flex-wrap: wrap; height: auto; overflow: visible; min-width: 0; }
:is(.column, .tabs, .tab-wrapper) { min-width: 0; }
.tab-wrapper { height: auto; }
[role=tab] { min-height: 32px; }
#announcement { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""
