"""The `forebay` command.

Owns: arguments, what is printed, and exit statuses (0 well, 1 refused or failed, 2 wrong arguments).
Must not know: how anything is done. Servers are imported by the commands that start them, so `check` needs none.
On failure: one line for each reason on standard error, and status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebay.errors import ForebayError, PolicyError, RequestUnreadable
from forebay.policy import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forebay.policy import Finding, LoadedPolicy

__all__ = ["main", "parser"]

_PATH_OF_FIELD = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "input": "/v1/embeddings",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status comes back."""
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except PolicyError as error:
        _say_findings(error.source, error.findings)
    except ForebayError as error:
        print(f"forebay: error[{error.slug}]: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        sys.stderr.close()
    return 1


def parser() -> argparse.ArgumentParser:
    """Give the parser of all commands."""
    top = argparse.ArgumentParser(prog="forebay", description="an inference gateway: Envoy carries, forebay decides")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    check = _command(commands, "check", _check, "say every error and warning of a policy file")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="print a JSON list of findings")

    explain = _command(commands, "explain", _explain, "decide on one request without a network, stage by stage")
    explain.add_argument("file", type=Path, metavar="FILE")
    explain.add_argument("request", metavar="REQUEST.json", help="the body; `-` reads standard input")
    who = explain.add_mutually_exclusive_group()
    who.add_argument("--key-id", metavar="ID", help="decide as the key with this id, without its secret")
    who.add_argument("--key", metavar="KEY", help="send this key, as a client does")
    explain.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="send a header")
    explain.add_argument("--path", help="default: by the body's fields, such as /v1/chat/completions")
    explain.add_argument("--method", default="POST", help="default: POST")
    explain.add_argument("--json", action="store_true", help="print what the core told")

    envoy = _command(commands, "envoy-config", _envoy_config, "render Envoy's configuration from a policy")
    envoy.add_argument("file", type=Path, metavar="FILE")
    envoy.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that is written")
    envoy.add_argument("--as", dest="seen_as", metavar="DIR", help="the same folder as Envoy sees it; default: --out")
    envoy.add_argument("--ca-file", metavar="FILE", help="authorities for pools with TLS and no `ca_file`")

    serve = _command(commands, "serve", _serve, "run the gateway")
    serve.add_argument("--policy", type=Path, required=True, metavar="FILE")
    serve.add_argument("--envoy-dir", type=Path, metavar="DIR", help="keep Envoy's files in this folder up to date")
    serve.add_argument(
        "--log-format", choices=("json", "text"), help="lines on standard error; default: text on a terminal, else json"
    )
    serve.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="set a field of the policy")

    _command(commands, "up", _up, "run Envoy, the gateway and simulated fleets until interrupted")
    demo = _command(commands, "demo", _demo, "send realistic requests through all of it and print what happened")
    demo.add_argument("--json", action="store_true", help="print JSON")

    ledger = _command(commands, "ledger", _ledger, "tell what requests cost, by whom, and how budgets stand")
    ledger.add_argument("directory", type=Path, metavar="DIR", help="`ledger.directory` of the policy")
    which = ledger.add_mutually_exclusive_group()
    which.add_argument("--p95", dest="kind", action="store_const", const="p95", help="which requests drive p95")
    which.add_argument("--budgets", dest="kind", action="store_const", const="budgets", help="how budgets stand")
    ledger.add_argument(
        "--by",
        default="",
        metavar="NAMES",
        help="tenant (default), user, key, feature, run, eval, model, model_asked, pool, provider, endpoint, route, "
        "operation, outcome, reason, code, status, cache, stream, usage, day, hour, month; several with commas",
    )
    ledger.add_argument("--since", default="", metavar="TIME", help="`7d`, `12h`, `2026-11-21` or an ISO time")
    ledger.add_argument("--until", default="", metavar="TIME", help="as --since; not included")
    ledger.add_argument(
        "--where", action="append", default=[], metavar="NAME=VALUE", help="only these; may be repeated"
    )
    ledger.add_argument("--sort", default="spend", help="spend (the default), requests, saved, wasted, p95, name, ...")
    ledger.add_argument("--limit", type=int, default=20, metavar="N", help="default: 20; 0 shows all")
    ledger.add_argument("--format", dest="form", choices=("table", "csv", "json"), default="table")
    ledger.set_defaults(kind="usage")

    key = commands.add_parser("key", help="make keys", description="make keys")
    new = _command(key.add_subparsers(required=True, metavar="COMMAND"), "new", _key_new, "make a key and its digest")
    new.add_argument("--tenant", default="TENANT", help="the tenant of the printed snippet")
    new.add_argument("--id", default="ID", help="the id of the printed snippet")
    return top


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    command.set_defaults(run=run)
    return command


def _check(arguments: argparse.Namespace) -> int:
    from forebay.policy.engine import check  # noqa: PLC0415 - it needs the compiled core
    from forebay.policy.price_lines import price_lines  # noqa: PLC0415 - only this command shows them

    prices: list[str] = []
    try:
        policy = load(arguments.file)
        findings: Sequence[Finding] = check(policy)
        prices = price_lines(policy.message())
    except PolicyError as error:
        findings = error.findings
    if arguments.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        for finding in findings:
            print(finding.text(str(arguments.file)))
    errors = sum(finding.severity == "error" for finding in findings)
    if not arguments.json:
        for line in prices:
            print(f"{arguments.file}: {line}")
        print(f"{arguments.file}: {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    return 1 if errors else 0


def _explain(arguments: argparse.Namespace) -> int:
    from forebay.policy.engine import ExplainedRequest, explain  # noqa: PLC0415 - it needs the compiled core

    body = _request_body(arguments.request)
    headers = [("content-type", "application/json"), *map(_header, arguments.header)]
    if arguments.key:
        headers.append(("authorization", f"Bearer {arguments.key}"))
    request = ExplainedRequest(
        path=arguments.path or _path_of(body),
        body=body,
        method=arguments.method.upper(),
        headers=tuple(headers),
        as_key_id=arguments.key_id,
    )
    told = explain(load(arguments.file), request)
    print(json.dumps(told, indent=2) if arguments.json else _told(told, request.method, request.path))
    return 0


def _envoy_config(arguments: argparse.Namespace) -> int:
    from forebay.control import RenderOptions, install, render  # noqa: PLC0415
    from forebay.policy.engine import check  # noqa: PLC0415 - it needs the compiled core

    policy = load(arguments.file)
    _refuse_errors(policy, check(policy))
    folder = str(arguments.seen_as or arguments.out.resolve())
    options = RenderOptions(directory=folder)
    if arguments.ca_file:
        options = RenderOptions(directory=folder, system_ca_file=arguments.ca_file)
    rendered = render(policy.message(), options)
    install(rendered, arguments.out)
    for name in rendered.files():
        print(arguments.out / name)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from forebay import app  # noqa: PLC0415 - only this command needs servers

    return int(app.serve(arguments) or 0)


def _up(arguments: argparse.Namespace) -> int:
    from forebay import app  # noqa: PLC0415 - only this command needs servers

    return int(app.up(arguments) or 0)


def _demo(arguments: argparse.Namespace) -> int:
    from forebay import app  # noqa: PLC0415 - only this command needs servers

    return int(app.demo(arguments) or 0)


def _ledger(arguments: argparse.Namespace) -> int:
    from forebay.ledger.report import Asked, report  # noqa: PLC0415 - only this command reads a ledger

    asked = Asked(**{name: getattr(arguments, name) for name in Asked.__dataclass_fields__})
    print(report(arguments.directory, asked, time.time_ns()))
    return 0


def _key_new(arguments: argparse.Namespace) -> int:
    key = f"fbk_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    print(f"key     {key}")
    print(f"sha256  {digest}")
    print("\nthe key is shown this once; hand it to the client, and put its digest into the policy:\n")
    print(f"keys:\n- id: {arguments.id}\n  sha256: {digest}\n  tenant: {arguments.tenant}")
    return 0


def _request_body(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise RequestUnreadable(f"cannot read `{name}`: {(error.strerror or str(error)).lower()}") from error


def _path_of(body: bytes) -> str:
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    for name, path in _PATH_OF_FIELD.items():
        if isinstance(fields, dict) and name in fields:
            return path
    raise RequestUnreadable("the body tells no path (`messages`, `prompt` or `input`); give `--path`")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise RequestUnreadable(f"`{text}` is no header; write `NAME:VALUE`")
    return name.strip().lower(), value.strip()


def _told(told: dict[str, Any], method: str, path: str) -> str:
    lines = [f"{method} {path}", ""]
    stages = told.get("stages", [])
    width = max([len(stage["stage"]) for stage in stages], default=0)
    lines += [
        f"  {stage['stage']:<{width}}  {stage['ns'] / 1000:>9.1f} µs  {stage['note']}".rstrip() for stage in stages
    ]
    result = told.get("result", {})
    lines.append(f"  {'total':<{width}}  {sum(stage['ns'] for stage in stages) / 1000:>9.1f} µs")
    lines += ["", f"=> {_result(result)}"]
    if result.get("body"):
        lines.append(f"   {result['body']}")
    return "\n".join(lines)


def _result(result: dict[str, Any]) -> str:
    action = result.get("action")
    if action == "answer":
        return f"answered here with {result.get('status')} ({result.get('code') or 'ok'})"
    if action == "forward":
        captured = ", its answer is captured for the cache" if result.get("capture") else ""
        return f"forwarded to the pool `{result.get('pool')}`{captured}"
    if action == "stage":
        return f"handed to `{result.get('target')}`, which runs in a gateway, not here"
    return f"`{action}`"


def _refuse_errors(policy: LoadedPolicy, findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise PolicyError(policy.source, errors)


def _say_findings(source: str, findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(finding.text(source), file=sys.stderr)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


if __name__ == "__main__":
    sys.exit(main())
