"""The page's style, for light and dark, and the few lines that sort its tables."""

from stillhouse.search.report.core.mpl_style import DARK_COLOURS, css_variable

_LIGHT_COLOURS = "".join(f"{css_variable(colour)}:{colour};" for colour in DARK_COLOURS)
_DARK_COLOURS = "".join(f"{css_variable(colour)}:{dark};" for colour, dark in DARK_COLOURS.items())

STYLE = (
    ":root{color-scheme:light dark;"
    + _LIGHT_COLOURS
    + "}\n@media (prefers-color-scheme:dark){:root{"
    + _DARK_COLOURS
    + "}}\n"
    + """
:root{--ground:var(--c-ffffff);--ink:var(--c-1f2328);--muted:var(--c-6b7280);
--rule:var(--c-e4e7eb)}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.5rem;margin:0 0 .75rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:2.75rem 0 .6rem}
.headline{font-size:1.15rem;margin:0 0 .6rem;max-width:46rem}
ul{margin:.25rem 0 1rem;padding-left:1.2rem;max-width:46rem}
li{margin:.2rem 0}
.muted,figcaption,footer,summary{color:var(--muted)}
.muted{max-width:46rem}
figure{margin:2.5rem 0;max-width:48rem}
figure svg{display:block;width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:inherit!important}
figcaption{margin-top:.5rem;font-size:.87rem;max-width:44rem}
figcaption b{color:var(--ink);font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--rule);
vertical-align:top}
th{font-weight:600;color:var(--muted);vertical-align:bottom}
td{max-width:26rem;overflow-wrap:break-word}
.number{text-align:right}
td code,td.number{white-space:nowrap}
.sortable th{cursor:pointer}
code,pre{font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{padding:1rem;border:1px solid var(--rule);border-radius:6px;overflow-x:auto}
summary{cursor:pointer}
footer{margin-top:3rem;font-size:.8rem}
@media print{main{max-width:none;padding:0}figure,tr{break-inside:avoid}}
"""
)

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable"))
  table.tHead.rows[0].querySelectorAll("th").forEach((head, column) => {
    let up = false;
    head.addEventListener("click", () => {
      up = !up;
      const text = row => row.cells[column].textContent;
      const value = row => parseFloat(text(row).replace(/,/g, ""));
      const order = (a, b) => value(a) - value(b) || text(a).localeCompare(text(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => up ? order(a, b) : order(b, a));
      table.tBodies[0].append(...rows);
    });
  });
"""
