#!/usr/bin/env python3
"""Writes what Python's jinja2, set up as Hugging Face transformers does, renders: the expectations of test-jinja.

    make-template-expectations.py DIRECTORY

DIRECTORY holds *.jinja; cases.json, snippets.json and one NAME.expect per template are written there. A line of
NAME.expect is one case, in the order conversations x toolsets x variants: "HASH LENGTH" (FNV-1a of the UTF-8 text),
"raised MESSAGE" (JSON) or "error". Needs jinja2 3.1."""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from template_cases import CONVERSATIONS, TOOLSETS, VARIANTS  # noqa: E402
from template_snippets import SNIPPETS  # noqa: E402

NOW = datetime.datetime.fromtimestamp(1753600000, datetime.timezone.utc)


class Raised(jinja2.exceptions.TemplateError):
    pass


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _support(self, context, caller):
        return caller()


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return env


def outcome(source, contexts):
    """For each context a pair (kind, text); kind: text, raised, undefined, syntax, error."""
    try:
        template = environment().from_string(source)
    except (jinja2.exceptions.TemplateSyntaxError, SyntaxError) as e:
        return [("syntax", str(e))] * len(contexts)
    results = []
    for context in contexts:
        try:
            text = template.render(**json.loads(json.dumps(context)))
            text.encode("utf-8")
            results.append(("text", text))
        except Raised as e:
            results.append(("raised", str(e)))
        except jinja2.exceptions.UndefinedError as e:
            results.append(("undefined", str(e)))
        except Exception as e:  # whatever Python raises, a chat template that does it does not work
            results.append(("error", f"{type(e).__name__}: {e}"))
    return results


def fnv(data):
    h = 14695981039346656037
    for byte in data:
        h = (h ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return h


def line(kind, text):
    if kind == "text":
        data = text.encode("utf-8")
        return f"{fnv(data):016x} {len(data)}"
    if kind == "raised":
        return "raised " + json.dumps(text, ensure_ascii=False)
    return "error"


def contexts():
    for conversation in CONVERSATIONS:
        for tools in TOOLSETS:
            for variant in VARIANTS:
                yield {"messages": conversation, "tools": tools, "documents": None, **variant}


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    directory = pathlib.Path(sys.argv[1])
    dump(directory / "cases.json", {"conversations": CONVERSATIONS, "toolsets": TOOLSETS, "variants": VARIANTS})
    cases = list(contexts())
    for path in sorted(directory.glob("*.jinja")):
        results = outcome(path.read_text(encoding="utf-8"), cases)
        lines = [line(*r) for r in results]
        path.with_suffix(".expect").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(path.name, {k: sum(r[0] == k for r in results) for k in sorted({r[0] for r in results})})
    out = []
    for snippet in SNIPPETS:
        source, context = snippet if isinstance(snippet, tuple) else (snippet, {})
        kind, text = outcome(source, [context])[0]
        entry = {"t": source, "k": kind}
        if context:
            entry["c"] = context
        if kind in ("text", "raised", "undefined"):
            entry["o"] = text
        out.append(entry)
    (directory / "snippets.json").write_text(
        "[\n" + ",\n".join(json.dumps(e, ensure_ascii=False) for e in out) + "\n]\n", encoding="utf-8")
    print(len(out), "snippets", {k: sum(e["k"] == k for e in out) for k in sorted({e["k"] for e in out})})


if __name__ == "__main__":
    main()
