"""Check the documentation against settings and files."""

import re
from dataclasses import fields

from kubesyncd.settings import Settings
from tests.paths import DOCS


def test_the_page_about_settings_names_every_key_and_no_other():
    told: dict[str, set[str]] = {}
    section = ""
    for line in (DOCS / "settings.md").read_text().splitlines():
        if found := re.fullmatch(r"## \[(\w+)\]", line):
            section = found[1]
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4:
            continue
        if section and cells[1].startswith("`"):
            told.setdefault(section, set()).update(re.findall(r"`(\w+)`", cells[1]))
    settings = Settings()
    there = {f.name: {k.name for k in fields(getattr(settings, f.name))} for f in fields(settings)}
    assert told == there


def test_every_document_the_readme_names_is_there():
    readme = (DOCS.parent / "README.md").read_text()
    missing = [name for name in re.findall(r"`(docs/[\w.-]+)`", readme) if not (DOCS.parent / name).exists()]
    assert not missing
