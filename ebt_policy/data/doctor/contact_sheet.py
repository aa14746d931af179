"""One HTML page with a small picture of each camera and episode, and the findings: the quickest look at a dataset."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ebt_policy.data.doctor.findings import Examination
from ebt_policy.data.doctor.frames import count
from ebt_policy.data.doctor.looks import THUMBNAIL, Look
from ebt_policy.provenance import write_atomic

_STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a; background: #fff }}
.sheet {{ display: flex; flex-wrap: wrap; gap: .5rem }}
figure {{ margin: 0 }} figure img {{ height: {THUMBNAIL}px; display: block }} figcaption {{ font-size: .8rem }}
.marked img {{ outline: 3px solid #c33 }} .error {{ color: #b00 }} .warning {{ color: #850 }}
@media (prefers-color-scheme: dark) {{ body {{ color: #eee; background: #181818 }} .error {{ color: #f88 }} .warning {{ color: #fc6 }} }}
"""


def write_contact_sheet(path: Path, examination: Examination, seen: Mapping[str, Sequence[Look]]) -> None:
    """seen: camera -> its episodes, looked at. Episodes with a finding about that camera are outlined. Needs no network."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        f"<title>{escape(examination.repo_id)}</title><style>{_STYLE}</style><h1>{escape(examination.repo_id)}</h1>",
        f"<p>{count(examination.episodes, 'episode')}, {count(examination.frames, 'frame')} at {examination.fps:g} Hz.</p>",
    ]
    if not seen:
        parts.append("<p>The dataset has no camera.</p>")
    for camera, of_camera in seen.items():
        parts.append(f"<h2>{escape(camera)}</h2>")
        if len(of_camera) < examination.episodes:
            parts.append(f"<p>{len(of_camera)} of {examination.episodes} episodes.</p>")
        parts.append('<div class="sheet">')
        marked = {finding.episode for finding in examination.findings if finding.feature == camera}
        for look in of_camera:
            picture = base64.b64encode(look.thumbnail).decode()
            name = f"episode {look.episode}"
            parts.append(
                f'<figure{" class=marked" if look.episode in marked else ""}><img alt="{escape(camera)}, {name}" '
                f'src="data:image/jpeg;base64,{picture}"><figcaption>{name}</figcaption></figure>'
            )
        parts.append("</div>")
    parts.append("<h2>Findings</h2>" if examination.findings else "<p>No faults found.</p>")
    for finding in examination.findings:
        where = finding.feature + ("" if finding.episode is None else f", episode {finding.episode}")
        parts.append(
            f'<p><b class="{finding.severity}">{finding.severity}</b> {escape(where)}: {escape(finding.message)}<br>'
            f"{escape(finding.remedy)}</p>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "\n".join(parts))
