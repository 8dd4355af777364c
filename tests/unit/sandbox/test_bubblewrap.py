"""The command line of a sandbox."""

from dataclasses import replace
from pathlib import Path

from ignite.sandbox.bubblewrap import (
    Mount,
    SandboxSpec,
    Tools,
    TreeSpec,
    arguments,
    command,
    environment,
)

SPEC = SandboxSpec(
    command=("/bin/true", "--flag"),
    uid=200_001,
    mounts=(
        Mount(source=Path("/data/shim"), target="/ignite"),
        Mount(source=7, target="/app"),
        Mount(source=8, target="/run/ignite", is_writable=True),
    ),
    etc=Path("/data/etc"),
    passwd=Path("/data/passwd"),
    env={"TOKEN": "secret"},
)


def pairs(found: list[str], option: str, count: int = 1) -> list[tuple[str, ...]]:
    return [
        tuple(found[at + 1 : at + 1 + count]) for at, word in enumerate(found) if word == option
    ]


class TestArguments:
    def test_every_namespace_is_its_own(self) -> None:
        found = arguments(SPEC, Tools())
        for name in ("pid", "ipc", "uts", "net", "cgroup-try"):
            assert f"--unshare-{name}" in found
        assert "--die-with-parent" in found
        assert "--new-session" in found

    def test_a_network_is_shared_only_when_asked_for(self) -> None:
        assert "--unshare-net" not in arguments(replace(SPEC, has_network=True), Tools())

    def test_only_what_is_said_is_writable(self) -> None:
        found = arguments(SPEC, Tools())
        assert pairs(found, "--bind-fd", 2) == [("8", "/run/ignite")]
        assert pairs(found, "--bind", 2) == []
        assert ("7", "/app") in pairs(found, "--ro-bind-fd", 2)
        assert ("/data/shim", "/ignite") in pairs(found, "--ro-bind", 2)
        assert found.index("--remount-ro") > found.index("--bind-fd")

    def test_folders_on_the_way_may_be_passed(self) -> None:
        found = arguments(SPEC, Tools())
        assert ("0755", "--dir", "/run") in pairs(found, "--perms", 3)

    def test_a_size_stands_before_the_file_system_it_is_for(self) -> None:
        found = arguments(replace(SPEC, tmp_bytes=1234), Tools())
        assert ("1234", "--tmpfs", "/tmp") in pairs(found, "--size", 3)

    def test_the_environment_begins_empty(self) -> None:
        found = arguments(SPEC, Tools())
        assert found.index("--clearenv") < found.index("--setenv")
        assert ("TOKEN", "secret") in pairs(found, "--setenv", 2)

    def test_older_machines_have_real_folders_beside_usr(self, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "bin").symlink_to("usr/bin")
        found = arguments(SPEC, Tools(), system=tmp_path)
        assert (str(tmp_path / "lib"), "/lib") in pairs(found, "--ro-bind", 2)
        assert ("usr/bin", "/bin") in pairs(found, "--symlink", 2)


class TestCommand:
    def test_root_is_given_up_before_the_command(self) -> None:
        found = command(SPEC, Tools())
        assert found[-2:] == ["/bin/true", "--flag"]
        assert {"--reuid=200001", "--regid=200001", "--clear-groups", "--no-new-privs"} < set(found)
        assert "--bounding-set=-all" in found

    def test_it_shows_nothing_of_the_environment(self) -> None:
        assert "secret" not in " ".join(command(SPEC, Tools()))


class TestWithoutRoot:
    def test_a_user_namespace_takes_its_place_and_cannot_be_nested(self) -> None:
        tools = Tools(is_root=False)
        found = arguments(SPEC, tools)
        assert {"--unshare-user", "--disable-userns"} < set(found)
        assert ("ALL",) in pairs(found, "--cap-drop")
        assert command(SPEC, tools) == ["/bin/true", "--flag"]


class TestTreeOfAForkServer:
    tree = TreeSpec(
        command=("/usr/bin/python3", "zygote.py"),
        uid=0,
        mounts=(),
        places=("/app", "/run/ignite"),
        etc=Path("/shared/etc"),
        passwd=Path("/shared/passwd"),
    )

    def test_it_keeps_its_privileges_and_the_pids_of_the_machine(self) -> None:
        assert command(self.tree, Tools()) == ["/usr/bin/python3", "zygote.py"]
        assert "--unshare-pid" not in arguments(self.tree, Tools())
        assert "--unshare-net" in arguments(self.tree, Tools())

    def test_it_has_a_place_for_what_its_replicas_mount(self) -> None:
        made = [folder for (folder,) in pairs(arguments(self.tree, Tools()), "--dir", 1)]
        assert made[-3:] == ["/run", "/app", "/run/ignite"]


class TestNotify:
    def test_the_command_is_told_the_number_of_the_pipe(self) -> None:
        spec = replace(TestTreeOfAForkServer.tree, notify=7, env={"A": "b"})
        assert environment(spec)["IGNITE_READY_FD"] == "7"
        assert "IGNITE_READY_FD" not in environment(TestTreeOfAForkServer.tree)
