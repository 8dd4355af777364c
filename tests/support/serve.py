"""Runs one embedded server: `python serve.py <postgres|openbao> <data> <options> <user>`.

A process of its own, because the server is started the way the supervisor starts it: with a private
mount namespace and an unprivileged user where we are root. `user` is `server` (the server alone
is unprivileged) or `all` (this process too, as if root had never been there). Prints one line of
JSON when it serves, stops when its standard input ends.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from ignite.children import Child, ChildSpec
from ignite.db.embedded import EmbeddedPostgres
from ignite.layout import Layout
from ignite.lifecycle import supervise
from ignite.privileges import Owner, drop, make_folder, make_reachable, program_paths
from ignite.secretstores.embedded import EmbeddedOpenBao
from ignite.settings import LogSettings

NOBODY = Owner(name="nobody", uid=65534, gid=65534)


def main() -> None:
    kind, data, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    owner = NOBODY if os.geteuid() == 0 else None
    if owner and sys.argv[4] == "all":
        data.mkdir(mode=0o700)
        os.chown(data, owner.uid, owner.gid)
        make_reachable([*program_paths(), data], owner)
        drop(owner)
        owner = None
    layout = prepare(Layout(data=data), owner)
    asyncio.run(serve(kind, layout, owner, options))


def prepare(layout: Layout, owner: Owner | None) -> Layout:
    make_folder(layout.data, owner)
    if owner:
        make_folder(layout.run.parent, mode=0o711)
    make_folder(layout.run, owner, mode=0o711)
    if owner:
        make_reachable([*program_paths(), layout.data, layout.run], owner)
    return layout


async def serve(kind: str, layout: Layout, owner: Owner | None, options: dict[str, str]) -> None:
    spec, answer = parts(kind, layout, owner, options)
    child = Child(spec, on_line=lambda _name, line: print(line, file=sys.stderr))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, stop.set)
    await supervise(
        [[child]],
        on_ready=lambda: print(json.dumps({**answer, "pid": child.pid}), flush=True),
        stop=stop,
    )


def parts(
    kind: str, layout: Layout, owner: Owner | None, options: dict[str, str]
) -> tuple[ChildSpec, dict[str, str]]:
    if kind == "postgres":
        postgres = EmbeddedPostgres(layout, LogSettings(), owner, extra=options)
        return postgres.child(), {"url": postgres.url(), "admin_url": postgres.admin_url()}
    if kind == "openbao":
        openbao = EmbeddedOpenBao(layout, LogSettings(), owner)
        settings = openbao.settings()
        return openbao.child(), {
            "address": settings.address,
            "role_id": settings.role_id,
            "secret_id": settings.secret_id.get_secret_value(),
        }
    raise SystemExit(f"unknown server {kind!r}")


if __name__ == "__main__":
    main()
