"""``kvplan models``: the catalogue of model shapes: list, show, import, validate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, OutputFormat, model_names

if TYPE_CHECKING:
    from kvplan.specs.model import ModelSpec

app = typer.Typer(no_args_is_help=True, help="Model shapes: list, show, import, validate.")


@app.command("list")
def list_models(
    search: Annotated[
        str | None, typer.Argument(metavar="WORD", help="Only names, families and aliases that contain this.")
    ] = None,
    origins: Annotated[bool, typer.Option("--origins", help="Also show the file of every spec.")] = False,
    output: FormatOption = OutputFormat.table,
) -> None:
    """List the models that kvplan knows by name."""
    from kvplan.cli.output import answer, answer_rows, print_json
    from kvplan.specs.catalog import entries

    needle = (search or "").casefold()
    found = []
    for entry in entries("model"):
        known = entry.aliases()
        if any(needle in text.casefold() for text in (entry.name, entry.family, *known)):
            found.append((entry.name, entry.family, entry.origin, ", ".join(known), str(entry.path)))
    columns = ("name", "family", "origin", "aliases", "path")
    if output is OutputFormat.json:
        models: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in found]
        for item in models:
            item["aliases"] = [alias for alias in item["aliases"].split(", ") if alias]
        print_json({"schema": "kvplan.models/1", "models": models})
    elif output is OutputFormat.table:
        lines = []
        for name, family, origin, aliases, path in found:
            lines.append(f"{name:<40} {family:<18} {origin if origin != 'bundled' else ''}".rstrip())
            if origins:
                lines.append(f"    {path}")
            elif search and aliases:
                lines += _wrapped(aliases)
        lines.append(f"{len(found)} models; sizes: kvplan size NAME; details: kvplan models show NAME")
        answer("\n".join(lines))
    else:
        answer_rows(output, columns, found, most=4)


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 76, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)


@app.command("show")
def show(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=model_names, help="Name, alias, Hugging Face id, a file, or -."
        ),
    ],
    output: FormatOption = OutputFormat.table,
) -> None:
    """Show one model: its layers, where its facts come from, and its spec as YAML or JSON."""
    from kvplan.cli.output import answer, answer_rows, print_json
    from kvplan.specs.dump import model_data, model_yaml
    from kvplan.specs.resolve import resolve_model

    found = resolve_model(model)
    spec = found.model
    if output is OutputFormat.json:
        print_json(model_data(spec))
        return
    if output is OutputFormat.table:
        answer(f"# {found.origin}\n{model_yaml(spec)}")
        return
    columns = ("layers", "kind", "count")
    rows = _layer_rows(spec)
    answer_rows(output, columns, rows)


def _layer_rows(spec: "ModelSpec") -> list[tuple[str, str, int]]:
    from kvplan.sizing.size import block_kind

    return [(group.name, block_kind(group.block), group.count) for group in spec.groups()]


@app.command("import")
def import_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="config.json, its directory, -, or a Hugging Face id (needs the hf extra).",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name of the spec. Default: from the source.")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name; repeatable.")] = None,
    url: Annotated[str | None, typer.Option(help="Where the configuration is from.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hugging Face id.")] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--output", help="File, - for stdout. Default: the user's specs.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Turn a Hugging Face configuration into a spec that kvplan finds by name."""
    from kvplan.cli.files import check_outputs, written
    from kvplan.cli.output import answer, answer_rows, print_json, warn
    from kvplan.errors import UsageError
    from kvplan.resources import user_specs
    from kvplan.specs.dump import model_data, model_yaml

    imported, extra = _read(source, name, url, revision)
    aliases = tuple(dict.fromkeys((*(alias or ()), *extra)))
    spec = imported.model.model_copy(update={"aliases": aliases})
    for message in imported.warnings:
        warn(message)
    text = model_yaml(spec)
    if out == "-":
        if output in (OutputFormat.csv, OutputFormat.md):
            raise UsageError(f"a spec is not printed as {output}", hint="say json, or leave --format out")
        if output is OutputFormat.json:
            print_json(model_data(spec))
        else:
            answer(text)
        return
    path = Path(out) if out else user_specs() / "models" / spec.family / f"{spec.name}.yaml"
    if path.exists() and not force:
        raise UsageError(f"{path} exists", hint="give --force to replace it, or -o for another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_outputs({"-o": str(path)}, {"the configuration": source if Path(source).is_file() else None})
    with written(path) as stream:
        stream.write(text)
    columns, row = ("name", "family", "path"), (spec.name, spec.family, str(path))
    if output is OutputFormat.json:
        document = dict(zip(columns, row, strict=True))
        print_json({"schema": "kvplan.import/1", **document, "warnings": list(imported.warnings)})
    elif output is OutputFormat.table:
        answer(str(path))
    else:
        answer_rows(output, columns, [row])


def _read(source: str, name: str | None, url: str | None, revision: str | None) -> Any:
    from kvplan.errors import SpecError, UsageError
    from kvplan.specs.base import Source
    from kvplan.specs.bounded import STDIN, read_standard_input
    from kvplan.specs.huggingface import import_config, read_config
    from kvplan.specs.huggingface.reader import slug
    from kvplan.specs.json_document import MAX_JSON_BYTES, parse_json

    path, extra = Path(source), ()
    if source == "-":
        if name is None:
            raise UsageError("a configuration from standard input has no name", hint="give it one: --name")
        data = parse_json(read_standard_input(MAX_JSON_BYTES, "a configuration"), STDIN)
        said = Source(url=url, revision=revision) if url else None
        return import_config(data, STDIN, name=slug(name), source=said), extra
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise SpecError("this directory has no config.json", where=source)
    if path.exists() or path.suffix == ".json":
        facts = Source(url=url, revision=revision) if url else None
        return read_config(path, name=slug(name) if name else None, source=facts), extra
    from kvplan.specs.hub import fetch_config

    repo = source.removeprefix("hf:")
    path, commit = fetch_config(repo, revision)
    facts = Source(url=f"https://huggingface.co/{repo}", revision=commit)
    own = slug(name or repo.split("/")[-1])
    return read_config(path, name=own, source=facts), (repo,)


@app.command("validate")
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Spec files (YAML), directories of them, or -.")
    ],
    output: FormatOption = OutputFormat.table,
) -> None:
    """Check specs: their form, their names, and that their sizes can be computed."""
    from kvplan.cli.output import answer, answer_rows, print_json
    from kvplan.errors import DataError, KvplanError
    from kvplan.sizing.size import size_model
    from kvplan.specs.catalog import load_file
    from kvplan.specs.model import ModelSpec

    rows: list[tuple[str, str, str]] = []
    for path in _spec_files(files):
        try:
            spec = _load_stdin() if str(path) == "-" else load_file(path, ModelSpec)
            for retention in ("ideal", "transformers", "vllm", "sglang"):
                report = size_model(spec, context_tokens=spec.max_context or 4096, retention=retention)
            state = report.state_bytes_per_sequence
            more = f" + {state:,} B of state" if state else ""
            rows.append((str(path), "ok", f"{spec.name}: {report.kv_bytes_per_token:,} B/token{more}"))
        except KvplanError as exc:
            rows.append((str(path), "invalid", str(exc)))
        except OSError as exc:
            rows.append((str(path), "invalid", exc.strerror or str(exc)))
    columns = ("file", "result", "detail")
    if output is OutputFormat.json:
        checked = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"schema": "kvplan.validation/1", "files": checked})
    elif output is OutputFormat.table:
        answer("\n".join(f"{result:<8} {file}\n         {detail}" for file, result, detail in rows))
    else:
        answer_rows(output, columns, rows)
    bad = sum(1 for row in rows if row[1] != "ok")
    if bad:
        config = next((file for file, result, _ in rows if result != "ok" and file.endswith(".json")), None)
        raise DataError(
            f"{bad} of {len(rows)} specs {'is' if bad == 1 else 'are'} invalid",
            hint=f"a Hugging Face configuration becomes a spec with: kvplan models import {config}"
            if config is not None
            else None,
        )


def _load_stdin() -> Any:
    from kvplan.specs.bounded import STDIN, read_standard_input
    from kvplan.specs.catalog import load_text
    from kvplan.specs.document import MAX_YAML_BYTES
    from kvplan.specs.model import ModelSpec

    return load_text(read_standard_input(MAX_YAML_BYTES, "a spec"), STDIN, ModelSpec)


def _spec_files(files: list[Path]) -> list[Path]:
    from kvplan.errors import UsageError

    found: list[Path] = []
    for path in files:
        if path.is_dir():
            found += sorted(item for item in path.rglob("*") if item.suffix in (".yaml", ".yml"))
        else:
            found.append(path)
    if not found:
        raise UsageError("there are no YAML files to validate", where=str(files[0]))
    return found


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of model specs, for editors."""
    from kvplan.cli.output import print_json
    from kvplan.specs.model import ModelSpec

    print_json(ModelSpec.model_json_schema(by_alias=True))
