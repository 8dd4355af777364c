"""Control groups on trees like those of machines with version 1, version 2, and both."""

from pathlib import Path

import pytest

from ignite.sandbox.cgroups import ControlGroups, Hierarchy, find_controllers

V1 = """\
33 32 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 32 0:29 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
35 32 0:30 / /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,pids
36 32 0:31 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,name=systemd
"""
V2 = "30 25 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


class TestFind:
    def test_version_1_has_a_hierarchy_each(self) -> None:
        found = find_controllers(V1)
        assert found["cpu"] == Hierarchy(version=1, root=Path("/sys/fs/cgroup/cpu,cpuacct"))
        assert found["memory"] == Hierarchy(version=1, root=Path("/sys/fs/cgroup/memory"))
        assert found["pids"].version == 1

    def test_version_2_has_one_for_what_it_controls(self, tmp_path: Path) -> None:
        place = tmp_path / "sys/fs/cgroup"
        place.mkdir(parents=True)
        (place / "cgroup.controllers").write_text("cpuset cpu io memory\n")
        found = find_controllers(V2, root=tmp_path)
        assert found == {
            "cpu": Hierarchy(version=2, root=place),
            "memory": Hierarchy(version=2, root=place),
        }

    def test_a_controller_bound_to_version_1_is_taken_there(self, tmp_path: Path) -> None:
        unified = tmp_path / "sys/fs/cgroup/unified"
        unified.mkdir(parents=True)
        (unified / "cgroup.controllers").write_text("hugetlb\n")
        text = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ") + V1
        assert {h.version for h in find_controllers(text, root=tmp_path).values()} == {1}

    def test_none_are_found_where_none_are_mounted(self) -> None:
        assert find_controllers("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n") == {}


@pytest.fixture
def unified(tmp_path: Path) -> ControlGroups:
    hierarchy = Hierarchy(version=2, root=tmp_path)
    return ControlGroups("tag", {"memory": hierarchy, "cpu": hierarchy, "pids": hierarchy})


class TestVersion2:
    def test_controllers_are_passed_down_to_the_groups(
        self, unified: ControlGroups, tmp_path: Path
    ) -> None:
        assert all(state.hierarchy for state in unified.states)
        for folder in (tmp_path, tmp_path / "ignite", tmp_path / "ignite/tag"):
            assert (folder / "cgroup.subtree_control").read_text() == "+pids"

    def test_limits_are_written(self, unified: ControlGroups, tmp_path: Path) -> None:
        group = unified.create("one")
        folder = tmp_path / "ignite/tag/one"
        (folder / "memory.swap.max").write_text("max")
        (folder / "memory.oom.group").write_text("0")
        group.limit_memory(64 << 20)
        group.limit_cpu(250)
        group.limit_pids(32)
        assert (folder / "memory.max").read_text() == str(64 << 20)
        assert (folder / "memory.swap.max").read_text() == "0"
        assert (folder / "memory.oom.group").read_text() == "1"
        assert (folder / "cpu.max").read_text() == "25000 100000"
        assert (folder / "pids.max").read_text() == "32"

    def test_a_group_is_joined_once(self, unified: ControlGroups) -> None:
        assert len(unified.create("one").folders) == 1

    def test_kills_for_memory_are_counted(self, unified: ControlGroups, tmp_path: Path) -> None:
        group = unified.create("one")
        assert group.oom_kills() == 0
        events = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n"
        (tmp_path / "ignite/tag/one/memory.events").write_text(events)
        assert group.oom_kills() == 3

    def test_groups_of_an_earlier_process_are_found(self, unified: ControlGroups) -> None:
        unified.create("one")
        unified.create("two")
        assert [group.name for group in unified.find()] == ["one", "two"]


class TestVersion1:
    def test_limits_are_written_where_each_controller_is(self, tmp_path: Path) -> None:
        roots = {name: tmp_path / name for name in ("memory", "cpu", "pids")}
        groups = ControlGroups(
            "tag", {name: Hierarchy(version=1, root=root) for name, root in roots.items()}
        )
        group = groups.create("one")
        memory = tmp_path / "memory/ignite/tag/one"
        (memory / "memory.memsw.limit_in_bytes").write_text("")
        group.limit_memory(64 << 20)
        group.limit_cpu(5)
        group.limit_pids(32)
        assert len(group.folders) == 3
        assert (memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
        assert (memory / "memory.memsw.limit_in_bytes").read_text() == str(64 << 20)
        cpu = tmp_path / "cpu/ignite/tag/one"
        # The least that the kernel takes.
        assert (cpu / "cpu.cfs_quota_us").read_text() == "1000"
        assert (tmp_path / "pids/ignite/tag/one/pids.max").read_text() == "32"
        (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        assert group.oom_kills() == 1


class TestMissing:
    def test_what_stands_against_it_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        groups = ControlGroups("tag", {"memory": Hierarchy(version=1, root=tmp_path / "file")})
        states = {state.name: state for state in groups.states}
        assert "Not a directory" in states["memory"].why
        assert states["pids"].why == "not mounted"

    def test_limits_without_controllers_change_nothing(self) -> None:
        group = ControlGroups("tag", {}).create("one")
        group.limit_memory(1)
        group.limit_cpu(1)
        group.limit_pids(1)
        assert (group.folders, group.processes(), group.oom_kills()) == ((), (), 0)
        assert group.remove()
