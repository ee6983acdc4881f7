"""The look: design tokens for light and dark, and how stock Gradio controls take them on.

Every colour on a page is one of these tokens, so that charts (which read them at run time), our own
components and Gradio's controls change together when the theme does.
"""

from __future__ import annotations

import gradio as gr

from ui.assets import address

LIGHT: dict[str, str] = {
    "bg": "#f4f6f6",
    "surface": "#ffffff",
    "surface-2": "#edf1f1",
    "line": "#dae1e2",
    "text": "#132225",
    "text-soft": "#52666b",
    "accent": "#0b6870",
    "accent-text": "#ffffff",
    "accent-soft": "#e0eeef",
    "good": "#1a7648",
    "warn": "#8a5a00",
    "bad": "#b23a31",
    "good-soft": "#e1f1e8",
    "warn-soft": "#f7edd9",
    "bad-soft": "#f9e5e2",
    "shadow": "0 1px 2px rgb(16 40 44 / 5%)",
    # eight run colours, told apart with the common colour vision deficiencies and readable as text on a surface
    "c0": "#0b7285",
    "c1": "#c2571a",
    "c2": "#6a4fb3",
    "c3": "#3b7d2f",
    "c4": "#b5356f",
    "c5": "#2563b8",
    "c6": "#8a6d10",
    "c7": "#5b6670",
}

DARK: dict[str, str] = {
    "bg": "#0d1315",
    "surface": "#141c1f",
    "surface-2": "#1c272a",
    "line": "#2a383c",
    "text": "#e3ebec",
    "text-soft": "#9bb0b4",
    "accent": "#4db9c2",
    "accent-text": "#062023",
    "accent-soft": "#16343a",
    "good": "#5fc68d",
    "warn": "#e0ac50",
    "bad": "#f28b81",
    "good-soft": "#15332a",
    "warn-soft": "#382d15",
    "bad-soft": "#3c2222",
    "shadow": "none",
    "c0": "#4cc3d0",
    "c1": "#f2935c",
    "c2": "#ac98ee",
    "c3": "#83c776",
    "c4": "#ef86b4",
    "c5": "#79aef5",
    "c6": "#d9bc5a",
    "c7": "#a9b6bd",
}

SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
MONO = 'ui-monospace, SFMono-Regular, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'


def _variables(tokens: dict[str, str]) -> str:
    return "".join(f"--bgpo-{name}:{value};" for name, value in tokens.items())


# what Gradio's own controls read; once on :root and once more on .dark, because Gradio redefines them there
_GRADIO = {
    "body-background-fill": "bg",
    "background-fill-primary": "surface",
    "background-fill-secondary": "surface-2",
    "block-background-fill": "surface",
    "panel-background-fill": "surface",
    "border-color-primary": "line",
    "border-color-accent": "accent",
    "border-color-accent-subdued": "line",
    "block-border-color": "line",
    "panel-border-color": "line",
    "body-text-color": "text",
    "body-text-color-subdued": "text-soft",
    "block-label-text-color": "text-soft",
    "block-label-background-fill": "surface",
    "block-title-text-color": "text",
    "block-info-text-color": "text-soft",
    "color-accent": "accent",
    "color-accent-soft": "accent-soft",
    "link-text-color": "accent",
    "link-text-color-hover": "accent",
    "link-text-color-active": "accent",
    "link-text-color-visited": "accent",
    "input-background-fill": "surface",
    "input-background-fill-focus": "surface",
    "input-background-fill-hover": "surface",
    "input-border-color": "line",
    "input-border-color-hover": "text-soft",
    "input-border-color-focus": "accent",
    "input-placeholder-color": "text-soft",
    "slider-color": "accent",
    "checkbox-background-color": "surface",
    "checkbox-background-color-selected": "accent",
    "checkbox-background-color-focus": "surface",
    "checkbox-background-color-hover": "surface-2",
    "checkbox-border-color": "line",
    "checkbox-border-color-focus": "accent",
    "checkbox-border-color-selected": "accent",
    "checkbox-label-background-fill": "surface",
    "checkbox-label-background-fill-hover": "surface-2",
    "checkbox-label-background-fill-selected": "accent-soft",
    "checkbox-label-border-color": "line",
    "checkbox-label-border-color-selected": "accent",
    "checkbox-label-text-color": "text",
    "checkbox-label-text-color-selected": "text",
    "button-primary-background-fill": "accent",
    "button-primary-background-fill-hover": "accent",
    "button-primary-text-color": "accent-text",
    "button-primary-text-color-hover": "accent-text",
    "button-primary-border-color": "accent",
    "button-primary-border-color-hover": "accent",
    "button-secondary-background-fill": "surface",
    "button-secondary-background-fill-hover": "surface-2",
    "button-secondary-text-color": "text",
    "button-secondary-text-color-hover": "text",
    "button-secondary-border-color": "line",
    "button-secondary-border-color-hover": "text-soft",
    "button-cancel-background-fill": "surface",
    "button-cancel-background-fill-hover": "bad-soft",
    "button-cancel-text-color": "bad",
    "button-cancel-text-color-hover": "bad",
    "button-cancel-border-color": "line",
    "table-border-color": "line",
    "table-even-background-fill": "surface",
    "table-odd-background-fill": "surface",
    "table-text-color": "text",
    "accordion-text-color": "text",
    "code-background-fill": "surface-2",
    "stat-background-fill": "accent-soft",
    "error-background-fill": "bad-soft",
    "error-border-color": "bad",
    "error-text-color": "bad",
}

_SIZES = """
--radius-xs:4px;--radius-sm:6px;--radius-md:8px;--radius-lg:8px;--radius-xl:8px;--radius-xxl:8px;
--block-radius:8px;--input-radius:6px;--button-large-radius:6px;--button-medium-radius:6px;--button-small-radius:6px;
--block-shadow:none;--input-shadow:none;--input-shadow-focus:none;--button-primary-shadow:none;
--button-secondary-shadow:none;--shadow-drop:none;--shadow-drop-lg:none;--shadow-spread:0;
--block-border-width:1px;--block-label-border-width:0;--block-title-text-weight:600;--block-title-text-size:13px;
--block-info-text-size:12px;--block-label-text-size:12px;--layout-gap:16px;--block-padding:12px 14px;
--button-large-text-weight:600;--button-large-padding:9px 18px;--button-medium-padding:7px 14px;
--button-small-padding:5px 10px;--button-border-width:1px;--button-transition:background-color .12s,border-color .12s;
--text-xs:11px;--text-sm:12px;--text-md:14px;--text-lg:16px;--text-xl:20px;
"""


def _root(selector: str, tokens: dict[str, str]) -> str:
    gradio = "".join(f"--{name}:var(--bgpo-{token});" for name, token in _GRADIO.items())
    return f"{selector}{{{_variables(tokens)}{gradio}{_SIZES}}}"


_PAGE = """
body, gradio-app { background: var(--bgpo-bg) !important; }
.gradio-container { background: var(--bgpo-bg) !important; color: var(--bgpo-text); max-width: none !important;
  font-family: var(--bgpo-sans); font-size: 14px; line-height: 1.45; padding: 0 !important;
  overflow: clip !important; /* hidden, Gradio's own, would keep parts from sticking to the window */ }
.gradio-container .main.fillable { padding: 0 24px 48px !important; max-width: 2640px !important; margin: 0 auto !important; }
/* on the largest screens charts and stages take the room; what is read line by line does not */
#area-new, #area-system { max-width: 1790px; }
.html-container:has(> div > .bgpo-module) { padding: 0 !important; }
.bgpo-dressing .bgpo-module:not(.bgpo-dressed) { visibility: hidden; } /* its style sheet is on its way: dom.js */
.bgpo-module table { margin: 0; padding: 0; }
/* a name that turns the direction of writing turns its own alone */
.bgpo-module :is(a, b, code, i, mark, span, time) { unicode-bidi: isolate; }
.gradio-container footer { display: none !important; }
.gradio-container h1, .gradio-container h2, .gradio-container h3 { color: var(--bgpo-text); letter-spacing: -.01em;
  font-weight: 650; }
.gradio-container :focus-visible { outline: 2px solid var(--bgpo-accent) !important; outline-offset: 2px; }
.gradio-container .block { box-shadow: none; }
/* Gradio's thumb is white, so it was a gap in the track of a white card */
.slider_input_container input::-webkit-slider-thumb { background-color: var(--bgpo-accent) !important; border: 2px solid var(--bgpo-surface) !important; }
.slider_input_container input::-moz-range-thumb { background-color: var(--bgpo-accent) !important; border: 2px solid var(--bgpo-surface) !important; }
.bgpo-sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@keyframes bgpo-late { from { opacity: 0; } } /* what is said of waiting is not said of a moment */
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
@media (max-width: 700px) { .gradio-container .main.fillable { padding: 0 12px 32px !important; } }

/* the areas, as one quiet line under the name */
#bgpo-header { height: 0; min-height: 0; overflow: visible; position: relative; z-index: 5; margin-bottom: -16px; }
#bgpo-areas > .tab-wrapper { border-bottom: 1px solid var(--bgpo-line); height: 46px; padding: 0 190px 0 150px; margin: 0 0 18px; }
@media (max-width: 700px) {
  #bgpo-header { height: 42px; margin-bottom: -16px; }
  #bgpo-areas > .tab-wrapper { padding: 0; }
}
#bgpo-areas > .tab-wrapper .tab-container { height: 46px; background: none; }
#bgpo-areas > .tab-wrapper .tab-container::after { display: none; }
#bgpo-areas > .tab-wrapper button { font-size: 14px; font-weight: 550; color: var(--bgpo-text-soft); padding: 0 14px;
  height: 46px; border: 0; border-radius: 0; background: none; }
@media (max-width: 700px) { #bgpo-areas > .tab-wrapper button { padding: 0 8px; font-size: 13.5px; } }
#bgpo-areas > .tab-wrapper button:hover { color: var(--bgpo-text); background: none; }
#bgpo-areas > .tab-wrapper button.selected { color: var(--bgpo-text); background: none;
  box-shadow: inset 0 -2px var(--bgpo-accent); }
#bgpo-areas > .tab-wrapper button.selected::after { display: none; }
#bgpo-areas > .tabitem, #bgpo-areas .tabitem { border: 0; padding: 0; background: none; }
"""

_SHARED = """
/* small parts that every component of ours uses */
.bgpo-button { font: 550 13px/1 var(--bgpo-sans); color: var(--bgpo-text); background: var(--bgpo-surface);
  border: 1px solid var(--bgpo-line); border-radius: 6px; padding: 8px 12px; cursor: pointer; white-space: nowrap; }
.bgpo-button:hover { border-color: var(--bgpo-text-soft); }
.bgpo-button:disabled { opacity: .5; cursor: default; }
.bgpo-button.primary { background: var(--bgpo-accent); border-color: var(--bgpo-accent); color: var(--bgpo-accent-text); }
.bgpo-button.danger { color: var(--bgpo-bad); }
.bgpo-button.danger:hover { background: var(--bgpo-bad-soft); border-color: var(--bgpo-bad); }
.bgpo-button.small { padding: 5px 9px; font-size: 12px; }
.bgpo-card { background: var(--bgpo-surface); border: 1px solid var(--bgpo-line); border-radius: var(--bgpo-radius);
  box-shadow: var(--bgpo-shadow); }
.bgpo-chip { display: inline-flex; align-items: center; gap: 6px; font: 600 11px/1 var(--bgpo-sans); padding: 4px 7px;
  border-radius: 5px; background: var(--bgpo-surface-2); color: var(--bgpo-text-soft); white-space: nowrap; }
.bgpo-chip.live { background: var(--bgpo-accent-soft); color: var(--bgpo-accent); }
.bgpo-chip.good { background: var(--bgpo-good-soft); color: var(--bgpo-good); }
.bgpo-chip.warn { background: var(--bgpo-warn-soft); color: var(--bgpo-warn); }
.bgpo-chip.bad { background: var(--bgpo-bad-soft); color: var(--bgpo-bad); }
.bgpo-mono { font-family: var(--bgpo-mono); font-variant-ligatures: none; }
.bgpo-soft { color: var(--bgpo-text-soft); }
.bgpo-eyebrow { font: 600 11px/1.3 var(--bgpo-sans); letter-spacing: .04em; text-transform: uppercase;
  color: var(--bgpo-text-soft); }
.bgpo-progress { height: 4px; border-radius: 2px; background: var(--bgpo-surface-2); overflow: hidden; }
.bgpo-progress > i { display: block; height: 100%; background: var(--bgpo-accent); border-radius: 2px;
  transition: width .4s linear; }
"""

CSS = (
    _root(":root, .gradio-container", LIGHT)
    + _root(".dark, .dark .gradio-container", DARK)
    + f":root{{--bgpo-radius:8px;--bgpo-mono:{MONO};--bgpo-sans:{SANS};}}"
    + _PAGE
    + _SHARED
)

def head() -> str:
    """What the page begins with. Before its first paint comes the theme that was chosen here before, else the system's
    (which Gradio follows by itself)."""
    return f"""
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<script type="module" src="{address('shell.js')}"></script>
"""


def theme() -> gr.themes.Base:
    """Gradio's plainest theme with our fonts; the colours come from the tokens above."""
    return gr.themes.Base(
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    )
