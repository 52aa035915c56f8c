"""The style sheet of the report: light and dark, narrow and wide, screen and paper. Pure."""

from __future__ import annotations

from typing import Final

from services.cli.report_plots import SERIES

LIGHT: Final = {
    "ink": "#1d2330",
    "soft": "#545d74",
    "paper": "#ffffff",
    "panel": "#f5f6fa",
    "edge": "#d6dae5",
    "bad": "#b3261e",
    "warn": "#8a5a00",
    "good": "#1b6e3c",
    "s0": "#2457c5",
    "s1": "#b3470f",
    "s2": "#1b7f5c",
    "s3": "#8a2f9b",
    "s4": "#6b6300",
    "s5": "#a3195b",
}
"""Colours by name. Text has a contrast of at least 4.5 to paper and panel, lines of plots of at least 3."""
DARK: Final = {
    "ink": "#e7eaf3",
    "soft": "#aab2c6",
    "paper": "#12151d",
    "panel": "#1b202c",
    "edge": "#363e51",
    "bad": "#ff8a80",
    "warn": "#f2c14e",
    "good": "#7fd8a2",
    "s0": "#8fb4ff",
    "s1": "#ffab78",
    "s2": "#6fd9b3",
    "s3": "#dd9cec",
    "s4": "#d8cf5f",
    "s5": "#ff9cc6",
}


def _root(colours: dict[str, str]) -> str:
    return ":root{" + ";".join(f"--{name}:{colour}" for name, colour in colours.items()) + "}"


_SCREEN: Final = """
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:80rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .3rem}.wide+h3{margin-top:1.2rem}
p{margin:.3rem 0}.soft,figcaption{color:var(--soft)}figcaption{font-size:.85rem;margin-bottom:.5rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0 0}
.tiles div,.parts li,figure{padding:.9rem;background:var(--panel);border:1px solid var(--edge);border-radius:.5rem}
.tiles dt{color:var(--soft);font-size:.85rem}.tiles dd{margin:0;font-size:1.3rem;line-height:1.3;font-weight:600}
.tiles dd small{display:block;font-size:.85rem;font-weight:400;color:var(--soft)}
.parts,.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem;margin:0;padding:0}
.parts{list-style:none;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
.parts .unwell{grid-column:1/-1}.parts h3 span{font-weight:400;color:var(--soft)}.parts h3 b{float:right}
.parts ul{margin:.4rem 0 0;padding-left:1.1rem}
.parts li li{padding:0;background:none;border:0;margin:.2rem 0;overflow-wrap:anywhere}
figure{margin:0;min-width:0}svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--edge)}.axis{stroke:var(--soft)}.rule,.limit{stroke:var(--ink);stroke-width:1.5}
.rule{stroke-dasharray:4 3}
.line{fill:none;stroke-width:2}.d1{stroke-dasharray:6 3}.d2{stroke-dasharray:2 3}
.bar{fill:var(--s0)}rect.bad{fill:var(--bad)}.thin{stroke:var(--s0);stroke-width:2}.thick{stroke:var(--s0);stroke-width:8}
.middle{fill:var(--paper);stroke:var(--s0);stroke-width:3}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;margin:.4rem 0 0;padding:0;font-size:.85rem}
.key li::before{content:"";display:inline-block;width:1.2rem;margin-right:.4rem;vertical-align:middle;
border-top:3px solid var(--c)}
.key .d1::before{border-top-style:dashed}.key .d2::before{border-top-style:dotted}
.wide{overflow-x:auto}.wide:focus-visible{outline:2px solid var(--s0)}
table{border-collapse:collapse;width:100%;font-size:.88rem}caption{text-align:left;color:var(--soft);padding:.2rem 0}
th,td{text-align:left;padding:.35rem .55rem;border-bottom:1px solid var(--edge);vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th small,td small{display:block;font-weight:400;color:var(--soft)}
tbody th{font-weight:600}.line1{white-space:nowrap}td.text{min-width:16rem}
.healthy,.stable,.excellent,.good{color:var(--good)}.degraded,.acceptable{color:var(--warn)}
.unhealthy,.drift,.poor{color:var(--bad)}.healthy,.degraded,.unhealthy,.drift{font-weight:600}
details{margin-top:.5rem;font-size:.9rem}summary{cursor:pointer;color:var(--soft)}
@media(max-width:40rem){body{padding:1rem}}
"""
_PAPER: Final = """
@page{margin:15mm}
@media print{body{max-width:none;padding:0;font-size:10pt}details{display:none}.wide{overflow:visible}
.plots,.parts{grid-template-columns:1fr 1fr}.tiles{grid-template-columns:repeat(5,1fr)}
table{font-size:7.5pt}th,td{padding:.15rem .3rem}td.text{min-width:0}
figure,.parts>li,.tiles div,tr{break-inside:avoid}h2,h3{break-after:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
STYLE: Final = (
    ":root{color-scheme:light dark}"
    + _root(LIGHT)
    + "@media screen and (prefers-color-scheme:dark){"
    + _root(DARK)
    + "}"
    + _SCREEN
    + "".join(f".line.s{n}{{stroke:var(--s{n})}}.dot.s{n}{{fill:var(--s{n})}}" for n in range(SERIES))
    + _PAPER
)
"""What stands inside the page's style element; nothing in it is fetched."""
