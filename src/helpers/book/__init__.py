"""Around the chapters: parameters, runner, scoreboard, site and the `histobook` command."""

import sys

# jsonschema, which papermill and nbformat stand on, imports this parser of web addresses where it is installed, and
# the parser builds its grammar on import: 1.2 s in every process, to check a format that no notebook uses.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
