"""The one stylesheet: of the page that is served, of a report in a file, of a notebook's tables.

Colours are the palette's variables. A drawing has classes alone, so it looks right wherever this
stylesheet is, also under a Content-Security-Policy that forbids inline styles:

- `.muted`, `.strong` on text; `.grid`, `.axis` on lines; `.line`, `.dot`, `.ring` on marks, which
  have the colour of the nearest `.series-N`, `.good`, `.warn` or `.bad`, else the accent;
- `.step-N` on what is filled from the scale, `.over-N` on text upon it, `.on-N` on a frame.
"""

from typing import Final

from share_registry.look.palette import (
    DARK,
    LIGHT,
    SERIES,
    STEPS,
    custom_properties,
    declarations,
)

_SANS: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
_MONO: Final = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'

# What a notebook says of its theme: JupyterLab and Notebook 7, VS Code, Colab, Sphinx and others
_DARK_HOSTS: Final = (
    '[data-jp-theme-light="false"]',
    "body.vscode-dark",
    "body.vscode-high-contrast:not(.vscode-high-contrast-light)",
    'html[theme="dark"]',
    '[data-theme="dark"]',
)

_SHEET: Final = f"""
.share-registry {{ font: 13px/1.45 {_SANS}; color: var(--ink); background: var(--paper); }}
.share-registry p {{ margin: 0 0 .5em; max-width: 48rem; }}
.share-registry p.title {{ font-weight: 600; white-space: pre-line; overflow-wrap: anywhere; }}
.share-registry p.total, .share-registry p.note {{ color: var(--muted); }}
.share-registry .scroll {{ overflow-x: auto; max-width: 100%; margin: 0 0 .6em; }}
.share-registry table {{ border-collapse: collapse; border: 0; margin: 0; font-size: inherit;
  color: inherit; font-variant-numeric: tabular-nums; }}
.share-registry th, .share-registry td {{ border: 0; padding: .25em 1.1em .25em 0; color: inherit;
  text-align: left; vertical-align: top; white-space: pre; }}
.share-registry th:last-child, .share-registry td:last-child {{ padding-right: 0; }}
.share-registry td.long {{ white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16em;
  max-width: 44em; }}
.share-registry thead th {{ color: var(--muted); font-weight: 600; vertical-align: bottom;
  border-bottom: 1px solid var(--line); }}
.share-registry tbody th {{ color: var(--muted); font-weight: 400; }}
.share-registry table tbody tr:nth-child(n) {{ background: none; }}
.share-registry table tbody tr:nth-child(n) > * {{ border-bottom: 1px solid var(--line); }}
.share-registry table tbody tr:last-child > * {{ border-bottom: 0; }}
.share-registry table.drawn td {{ vertical-align: middle; }}
.share-registry .number {{ text-align: right; }}
"""

# A notebook whose theme is not known has another ground, from which a result stands out whole
_CARD: Final = (
    ".share-registry { width: fit-content; max-width: 100%; box-sizing: border-box; "
    "padding: .5em .7em; border-radius: 4px; }"
)

_DRAWING: Final = f"""
.drawing {{ display: block; font: 12px/1.2 {_SANS}; font-variant-numeric: tabular-nums;
  --mark: var(--accent); }}
.drawing text {{ fill: var(--ink); }}
.drawing .muted {{ fill: var(--muted); }}
.drawing .strong {{ font-weight: 600; }}
.drawing .middle {{ text-anchor: middle; }}
.drawing .end {{ text-anchor: end; }}
.drawing .grid {{ stroke: var(--line); stroke-width: 1; fill: none; }}
.drawing .axis {{ stroke: var(--muted); stroke-width: 1; fill: none; }}
.drawing .dashed {{ stroke-dasharray: 4 3; }}
.drawing .good {{ --mark: var(--good); }}
.drawing .warn {{ --mark: var(--warn); }}
.drawing .bad {{ --mark: var(--bad); }}
.drawing .quiet {{ --mark: var(--muted); }}
.drawing .line {{ stroke: var(--mark); stroke-width: 2; fill: none; stroke-linejoin: round;
  stroke-linecap: round; }}
.drawing .thin {{ stroke-width: 1.25; }}
.drawing .dot {{ fill: var(--mark); stroke: var(--paper); stroke-width: 1.5; }}
.drawing .ring {{ fill: var(--paper); stroke: var(--mark); stroke-width: 2; }}
.drawing .span {{ fill: var(--panel); stroke: var(--mark); stroke-width: 1.5; }}
.drawing .cell {{ stroke: var(--paper); stroke-width: 1; }}
.drawing .marked {{ fill: none; stroke-width: 1.5; }}
.drawing .empty {{ fill: var(--panel); }}
"""

_PAGE: Final = f"""
*, *::before, *::after {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{ margin: 0; font: 15px/1.5 {_SANS}; color: var(--ink); background: var(--paper); }}
main, .frame {{ max-width: 76rem; margin: 0 auto; padding: 1rem clamp(1rem, 4vw, 2.5rem); }}
h1, h2, h3 {{ line-height: 1.25; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; margin-top: .6rem; }}
h2 {{ font-size: 1.2rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin-top: 1.4rem; }}
main > section:first-child > h2 {{ margin-top: .4rem; }}
p {{ margin: 0 0 .8rem; max-width: 48rem; overflow-wrap: anywhere; }}
a {{ color: var(--accent); text-underline-offset: .15em; }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
code, pre, kbd {{ font: .9em/1.5 {_MONO}; }}
details > pre, details > figure {{ margin-top: .5rem; }}
pre {{ background: var(--panel); border: 1px solid var(--line); border-radius: 6px; margin: 0;
  padding: .7rem .9rem; overflow-x: auto; }}
.muted {{ color: var(--muted); }}
.good {{ color: var(--good); }}
.warn {{ color: var(--warn); }}
.bad {{ color: var(--bad); }}
.badge {{ display: inline-block; border: 1px solid currentColor; border-radius: 1em;
  padding: 0 .6em; font-size: .85em; line-height: 1.5; white-space: nowrap; }}
.facts {{ display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.2rem;
  margin: 0 0 1rem; }}
.facts dt {{ color: var(--muted); }}
.facts dd {{ margin: 0; overflow-wrap: anywhere; white-space: pre-line; }}
.scroll {{ overflow-x: auto; max-width: 100%; }}
.figures {{ display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1rem 0; }}
.figures div {{ display: flex; flex-direction: column-reverse; }}
.figures dt {{ color: var(--muted); font-size: .87rem; }}
.figures dd {{ margin: 0; font-size: 1.25rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }}
.figures small {{ color: var(--muted); font-size: .85rem; font-weight: 400; }}
.contents {{ display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0;
  list-style: none; }}
.beside {{ display: flex; flex-wrap: wrap; gap: 0 3rem; }}
.beside > * {{ min-width: 0; max-width: 100%; }}
figure {{ margin: 0 0 1.4rem; }}
figcaption {{ color: var(--muted); font-size: .87rem; max-width: 48rem; margin-top: .4rem; }}
details {{ margin: 0 0 1rem; }}
summary {{ cursor: pointer; color: var(--accent); }}
.share-registry {{ font-size: 14px; margin: 0 0 1rem; }}
@media (max-width: 30rem) {{
  .facts {{ grid-template-columns: minmax(0, 1fr); gap: 0; }}
  .facts dd {{ margin-bottom: .5rem; }}
}}
@media print {{
  .scroll {{ overflow: visible; }}
  figure, tr {{ break-inside: avoid; }}
}}
"""


def page_style() -> str:
    """Return the stylesheet of a page: its variables in both themes, elements and drawings."""
    return f"{custom_properties()}{_PAGE}{_SHEET}{_DRAWING}{_numbered_classes()}"


def notebook_style() -> str:
    """Return the stylesheet of one result in a notebook, which touches nothing but results.

    The theme is the notebook's, not the reader's system's: the notebook around it has that one.
    """
    dark = ", ".join(f"{host} .share-registry" for host in _DARK_HOSTS)
    light_theme, dark_theme = (
        declarations(theme, ("paper", "ink", "muted", "line")) for theme in (LIGHT, DARK)
    )
    return (
        f".share-registry {{ color-scheme: light; {light_theme} }}\n"
        f"{dark} {{ color-scheme: dark; {dark_theme} }}{_SHEET}{_CARD}"
    )


def _numbered_classes() -> str:
    rules = [
        f".drawing .series-{number} {{ --mark: var(--series-{number}); }}"
        for number in range(SERIES)
    ]
    for step in range(STEPS):
        rules.append(f".drawing .step-{step} {{ fill: var(--scale-{step}); }}")
        rules.append(f".drawing .over-{step} {{ fill: var(--over-{step}); }}")
        rules.append(f".drawing .on-{step} {{ stroke: var(--over-{step}); }}")
    return "\n".join([*rules, ""])
