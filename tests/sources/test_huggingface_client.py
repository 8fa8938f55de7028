"""The official client against the tests' hub: what it understands, the hub says as the real one does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
from tests.support.hub import Hub, serving_hub

client: Any = huggingface_hub
constants: Any = huggingface_hub.constants

GGUF = b"GGUF" + bytes(range(256)) * 64
FILES = {"README.md": b"# tiny\n", "x-Q4_K_M.gguf": GGUF, "parts/a b#1.gguf": GGUF[:100], "template": b"{{ .Prompt }}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with serving_hub() as hub:
        yield hub
        client.close_session()


def test_the_client_lists_files_with_their_digests(hub: Hub) -> None:
    commit = hub.repo("org/tiny", FILES).refs["main"]

    info = client.HfApi(endpoint=hub.url).model_info("org/tiny", revision="main", files_metadata=True)

    listed = {item.rfilename: (item.size, item.lfs.sha256 if item.lfs else None) for item in info.siblings}
    assert info.sha == commit
    assert listed["README.md"] == (7, None)
    assert listed["x-Q4_K_M.gguf"] == (len(GGUF), hashlib.sha256(GGUF).hexdigest())
    assert set(listed) == set(FILES)


def test_the_client_walks_the_pages_of_the_tree(hub: Hub) -> None:
    hub.page = 2
    hub.repo("org/tiny", FILES)

    found = list(client.HfApi(endpoint=hub.url).list_repo_tree("org/tiny", recursive=True))

    assert {item.path: item.size for item in found} == {path: len(data) for path, data in FILES.items()}
    assert [item.lfs.sha256 for item in found if item.lfs] == [
        hashlib.sha256(FILES[path]).hexdigest() for path in sorted(FILES) if path.endswith(".gguf")
    ]


def test_the_client_reads_a_file_s_facts_and_sends_no_token_to_the_storage(hub: Hub) -> None:
    repo = hub.repo("org/tiny", FILES)
    repo.tokens = {"hf_good"}
    url = client.hf_hub_url("org/tiny", "x-Q4_K_M.gguf", revision=repo.refs["main"], endpoint=hub.url)

    facts = client.get_hf_file_metadata(url, token="hf_good", endpoint=hub.url)

    assert (facts.commit_hash, facts.size) == (repo.refs["main"], len(GGUF))
    assert facts.etag == hashlib.sha256(GGUF).hexdigest()
    assert facts.location.startswith(hub.storage_url)


def test_the_client_downloads_through_the_redirect(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/tiny", FILES)

    for path in ("x-Q4_K_M.gguf", "parts/a b#1.gguf", "template"):
        fetched = client.hf_hub_download("org/tiny", path, endpoint=hub.url, cache_dir=tmp_path, token=False)
        assert Path(fetched).read_bytes() == FILES[path]

    assert len(hub.requests("storage")) == 2


@pytest.mark.parametrize(
    ("repo", "revision", "token", "error"),
    [
        ("org/none", "main", False, "RepositoryNotFoundError"),
        ("org/private", "main", False, "RepositoryNotFoundError"),
        ("org/private", "main", "hf_other", "RepositoryNotFoundError"),
        ("org/gated", "main", False, "GatedRepoError"),
        ("org/gated", "main", "hf_other", "GatedRepoError"),
        ("org/tiny", "v9", False, "RevisionNotFoundError"),
        ("org/tiny", "main", "hf_nobody", "HfHubHTTPError"),
    ],
)
def test_the_client_understands_refusals(hub: Hub, repo: str, revision: str, token: str | bool, error: str) -> None:
    hub.repo("org/tiny", FILES)
    hub.repo("org/private", FILES).tokens = {"hf_good"}
    hub.repo("org/gated", FILES).tokens = {"hf_good"}
    hub.repos["org/gated"].gated = True
    hub.repo("org/mine", FILES).tokens = {"hf_other"}

    with pytest.raises(client.errors.HfHubHTTPError) as caught:
        client.HfApi(endpoint=hub.url).model_info(repo, revision=revision, token=token)

    assert type(caught.value).__name__ == error
