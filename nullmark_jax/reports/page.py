"""report.html: a run folder as one page that holds all it shows, and opens from a disk.

No script, no font, no address outside the page: figures are inside it.
"""

import base64
import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from nullmark_jax import files
from nullmark_jax.reports.table import Table

_LARGEST = 2**26
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; max-width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .7rem; text-align: left; }
th { border-bottom: 2px solid #555; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption, .note { color: #444; font-size: .92rem; }
.note { max-width: 46rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; }
.secret { border-left: 4px solid #D55E00; padding-left: .8rem; }
"""


def write_page(
    folder: pathlib.Path,
    *,
    title: str,
    lead: str,
    tables: Sequence[Table],
    captions: Mapping[str, str],
    result: Mapping[str, Any],
) -> None:
    """Writes report.html of a run folder, whole or not at all.

    Shown are the tables, the figures of `captions` that figures/ holds, config.json, the claim where
    there is one, and the result's environment.

    Args:
      folder: the run folder, everything else in it written.
      title: of the page.
      lead: the paragraph under it.
      tables: of the result.
      captions: by name of a figure, without ".png", what it shows.
      result: what result.json holds.

    Raises:
      InputError: a file cannot be read or written.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"]
    if (folder / "claim.json").exists() or (folder / "figures" / "triggers.png").exists():
        parts.append(
            "<p class='secret'>This page shows the watermark and its claim, if any: whoever reads it can "
            "train against them. It is for the owner and the authority alone.</p>"
        )
    parts += [table.html() for table in tables]
    for name, caption in captions.items():
        path = folder / "figures" / f"{name}.png"
        if path.exists():
            parts.append(_figure(files.read_bounded(path, _LARGEST), caption))
    for heading, name in (("Claim", "claim.json"), ("Config", "config.json")):
        if (folder / name).exists():
            text = files.read_bounded(folder / name, _LARGEST).decode()
            parts.append(f"<h2>{heading}</h2><pre>{html.escape(text)}</pre>")
    where = json.dumps(result["environment"], indent=2)
    parts.append(
        f"<h2>Environment</h2><pre>{html.escape(where)}</pre><p>{result['seconds']:g} seconds.</p>"
    )
    text = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    files.write_whole(folder / "report.html", text.encode())


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f"<figure><img alt='{text}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{text}</figcaption></figure>"
    )
