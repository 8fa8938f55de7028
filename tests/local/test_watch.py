"""The desired state while files change: last good versions, one report for each fault, whole states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from paddock_operator.core.resources import Ref
from paddock_operator.executors.local import files
from paddock_operator.executors.local.watch import Watcher, identity


def manifest(name: str, value: Any = 1, kind: str = "Model", namespace: str = "") -> str:
    place = f", namespace: {namespace}" if namespace else ""
    return f"---\nkind: {kind}\nmetadata: {{name: {name}{place}}}\nspec: {{value: {value}}}\n"


def check(document: dict[str, Any]) -> list[str]:
    """A document is bad when its value is `bad`."""
    return ["spec.value is bad"] if (document.get("spec") or {}).get("value") == "bad" else []


def ref(name: str, kind: str = "Model", namespace: str = "default") -> Ref:
    return Ref(kind, namespace, name)


def values(watcher: Watcher) -> dict[str, Any]:
    return {key.name: document.body["spec"]["value"] for key, document in watcher.poll().objects.items()}


def test_first_poll_gives_all_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(manifest("b2") + manifest("b1", kind="Endpoint"))
    (tmp_path / "a.yaml").write_text(manifest("a", namespace="team"))
    desired = Watcher([str(tmp_path)], check).poll()
    assert list(desired.objects) == [ref("a", namespace="team"), ref("b2"), ref("b1", "Endpoint")]
    assert desired.changed
    assert not desired.problems


def test_nothing_new_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("a"))
    watcher = Watcher([str(tmp_path)], check)
    watcher.poll()
    assert not watcher.poll().changed


def test_added_changed_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a"))
    watcher = Watcher([str(tmp_path)], check)
    assert values(watcher) == {"a": 1}
    (tmp_path / "b.yaml").write_text(manifest("b"))
    path.write_text(manifest("a", 2))
    assert values(watcher) == {"a": 2, "b": 1}
    path.unlink()
    watcher.poll()
    assert values(watcher) == {"b": 1}


def test_an_edit_of_equal_size_within_one_clock_tick_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a", 1))
    watcher = Watcher([str(tmp_path)], check)
    watcher.poll()
    before = path.stat()
    path.write_text(manifest("a", 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert values(watcher) == {"a": 2}


def test_a_swapped_symlink_is_seen(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "a.yaml").write_text(manifest("a", number))
        os.utime(tmp_path / f"v{number}" / "a.yaml", (1, 1))
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "..data").symlink_to(tmp_path / "v1")
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    watcher = Watcher([str(mount)], check)
    assert values(watcher) == {"a": 1}
    (mount / "..new").symlink_to(tmp_path / "v2")
    os.replace(mount / "..new", mount / "..data")
    assert values(watcher) == {"a": 2}


def test_broken_yaml_is_reported_once_and_the_old_state_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a"))
    watcher = Watcher([str(tmp_path)], check)
    watcher.poll()
    path.write_text("kind: [\n")
    desired = watcher.poll()
    assert list(desired.objects) == [ref("a")]
    assert not desired.changed
    assert len(desired.problems) == 1
    assert desired.problems[0].startswith(f"{path}:")
    assert watcher.poll().problems == ()
    path.write_text(manifest("a", 3))
    assert values(watcher) == {"a": 3}


def test_one_bad_document_keeps_its_own_last_version_only(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a") + manifest("b"))
    watcher = Watcher([str(tmp_path)], check)
    watcher.poll()
    path.write_text(manifest("a", "bad") + manifest("b", 2))
    desired = watcher.poll()
    assert desired.problems == (f"{path}:2: spec.value is bad",)
    assert values(watcher) == {"a": 1, "b": 2}


def test_a_bad_document_that_never_was_good_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("a", "bad") + manifest("b"))
    watcher = Watcher([str(tmp_path)], check)
    assert list(watcher.poll().objects) == [ref("b")]


def test_a_document_without_a_name_keeps_what_the_file_held(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a") + manifest("b"))
    watcher = Watcher([str(tmp_path)], check)
    watcher.poll()
    path.write_text("kind: Model\nmetadata: {}\nspec: {value: bad}\n" + manifest("b", 2))
    assert values(watcher) == {"a": 1, "b": 2}


def test_duplicates_are_reported_once_and_the_first_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("x", 1))
    (tmp_path / "b.yaml").write_text(manifest("x", 2))
    watcher = Watcher([str(tmp_path)], check)
    desired = watcher.poll()
    assert desired.objects[ref("x")].body["spec"]["value"] == 1
    assert desired.problems == (
        f"{tmp_path / 'b.yaml'}:2: Model default/x is declared twice, first at {tmp_path / 'a.yaml'}:2",
    )
    assert watcher.poll().problems == ()


def test_duplicates_inside_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("x", 1) + manifest("x", 2))
    desired = Watcher([str(tmp_path)], check).poll()
    assert "declared twice" in desired.problems[0]
    assert desired.objects[ref("x")].body["spec"]["value"] == 1


def test_a_missing_path_is_a_problem_and_may_appear_later(tmp_path: Path) -> None:
    watcher = Watcher([str(tmp_path / "later.yaml")], check)
    assert watcher.poll().problems == (f"{tmp_path / 'later.yaml'}: No such file or directory",)
    assert watcher.poll().problems == ()
    (tmp_path / "later.yaml").write_text(manifest("a"))
    assert values(watcher) == {"a": 1}


def test_an_unreadable_moment_keeps_the_last_good_state(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a"))
    watcher = Watcher([str(path)], check)
    watcher.poll()
    path.write_bytes(b"\xff")
    assert values(watcher) == {"a": 1}


def test_a_named_file_that_is_removed_takes_its_objects_along(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(manifest("a"))
    watcher = Watcher([str(path)], check)
    watcher.poll()
    path.unlink()
    assert values(watcher) == {"a": 1}, "one absence may be an editor that saves"
    assert values(watcher) == {}
    assert values(watcher) == {}
    path.write_text(manifest("a", 2))
    assert values(watcher) == {"a": 2}


def test_stdin_comes_first_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("a"))
    watcher = Watcher(["-", str(tmp_path)], check, files.from_stdin(manifest("s").encode()))
    assert values(watcher) == {"s": 1, "a": 1}
    assert values(watcher) == {"s": 1, "a": 1}


def test_identity_needs_kind_and_name() -> None:
    assert identity({"kind": "Model", "metadata": {"name": "a"}}) == ref("a")
    for body in ({}, {"kind": "Model"}, {"kind": "Model", "metadata": {"name": 3}}, {"metadata": {"name": "a"}}):
        assert identity(body) is None
