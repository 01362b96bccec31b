#!/usr/bin/env python3
"""Keeps the chart's documents equal to values.yaml, whose `# --` comments are the one source.

    scripts/chart-docs.py           write the table of charts/dormouse/README.md and the schema's descriptions
    scripts/chart-docs.py --check   fail when they are not as this would write them

Also fails when a value has no comment, or when values.yaml and values.schema.json do not name the same values.
Needs nothing but Python: the file is read by its indentation, so write one key per line.
"""
import json
import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parent.parent / "charts/dormouse"
BEGIN, END = "<!-- values: begin (scripts/chart-docs.py) -->", "<!-- values: end -->"


def read_values(text):
    """Yields (path, default, comment) of every value; the comment of a group is that of the lines above it."""
    stack, comment, rows = [], [], []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        body = line.strip()
        if body.startswith("#"):
            comment.append(body.lstrip("#").strip())
            continue
        found = re.match(r"^( *)([A-Za-z0-9]+):(?: (.*))?$", line)
        if not found:
            comment = []
            continue
        depth, key, default = len(found[1]) // 2, found[2], re.sub(r" +# .*$", "", found[3] or "")
        stack = stack[:depth] + [key]
        documented = bool(comment) and comment[0].startswith("-- ")
        if documented:
            if not default:  # a block: `resources` with its two lines
                block = [l.strip() for l in lines[number + 1:] if l.strip()]
                default = "{" + ", ".join(block[:2]) + "}"
            rows.append((tuple(stack), default, " ".join(comment)[3:]))
        elif default and not any(tuple(stack[:len(p)]) == p for p, _, _ in rows):
            sys.exit(f"values.yaml: {'.'.join(stack)} has no comment that begins with `# --`")
        comment = []
    return rows


def schema_node(schema, path):
    """The schema of one value, or None."""
    node = schema
    for key in path:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        node = node.get("properties", {}).get(key)
        if node is None:
            return None
    return node


def schema_leaves(schema, node=None, path=()):
    """Paths of all values that the schema names."""
    node = schema if node is None else node
    for key, child in node.get("properties", {}).items():
        target = child
        if child.get("$ref", "").endswith("/image"):
            target = schema["$defs"]["image"]
        if "properties" in target and key != "resources":
            yield from schema_leaves(schema, target, path + (key,))
        elif key != "global":
            yield path + (key,)


def main():
    check = sys.argv[1:] == ["--check"]
    rows = read_values((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    named, known = {path for path, _, _ in rows}, set(schema_leaves(schema))
    for path in sorted(named ^ known):
        sys.exit(f"{'.'.join(path)} is in only one of values.yaml and values.schema.json")
    for path, _, comment in rows:
        node = schema_node(schema, path)
        node["description"] = comment
    cells = [f"| `{'.'.join(p)}` | `{d}` | {c.replace('|', chr(92) + '|')} |" for p, d, c in rows]
    table = "\n".join([BEGIN, "| value | default | what it is |", "|---|---|---|", *cells, END])
    readme = (CHART / "README.md").read_text()
    head, rest = readme.split(BEGIN, 1)
    files = {
        CHART / "README.md": head + table + rest.split(END, 1)[1],
        CHART / "values.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
    }
    for file, text in files.items():
        if file.read_text() == text:
            continue
        if check:
            sys.exit(f"{file} does not follow values.yaml: run scripts/chart-docs.py")
        file.write_text(text)


if __name__ == "__main__":
    main()
