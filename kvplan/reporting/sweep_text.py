"""A sweep as Markdown."""

from __future__ import annotations

from kvplan.reporting.markdown import escape, table_markdown
from kvplan.reporting.schema.sweep import Sweep
from kvplan.reporting.sweep import point_table, remarks
from kvplan.reporting.sweep_verdict import sweep_verdict


def sweep_markdown(sweep: Sweep) -> str:
    """The answer, the whole table and its remarks as GitHub-flavoured Markdown."""
    document = sweep.document()
    said = [f"**{escape(sweep_verdict(sweep).headline)}**", "", table_markdown(point_table(document)), ""]
    return "\n".join([*said, *(f"- {escape(note)}" for note in remarks(document))]).rstrip() + "\n"
