"""The official clients, unmodified, against a served front: what they send is understood, what they get they accept."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import openai
import pytest
from tests.support.front import FINISHED, ScriptedEngine, answer, logprob, served

from paddock_runner.core.generation import ContextExceededError, Delta, EngineFailedError, Started

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def url(engine: ScriptedEngine) -> Iterator[str]:
    with served(engine) as (url, _):
        yield url


@pytest.fixture
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
def ollama_client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as client:
        yield client


def test_openai_chat(openai_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    reply = openai_client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, top_p=0.5, max_completion_tokens=5, seed=7, stop="END", n=1,
        presence_penalty=0.5, frequency_penalty=-0.5, logit_bias={"5": -100}, user="u", store=False,
    )  # type: ignore[call-overload]  # fmt: skip
    assert reply.choices[0].message.content == "Hello world"
    assert reply.choices[0].finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 2, 9)
    assert reply.usage.prompt_tokens_details.cached_tokens == 3
    sampling = engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0, 0.5, 7)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == ((5, -100.0),)
    assert engine.requests[0].stop == ("END",)
    assert engine.requests[0].max_tokens == 5


def test_openai_stream(openai_client: openai.OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )  # type: ignore[call-overload]
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello world"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


def test_openai_parts_and_developer(openai_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Rules."}, {"role": "user", "content": parts}]
    openai_client.chat.completions.create(model="tiny", messages=messages)  # type: ignore[arg-type]
    text = "".join(segment.text for segment in engine.requests[0].prompt)
    assert text.startswith("<|im_start|>system\nRules.<|im_end|>\n<|im_start|>user\nab<|im_end|>")


def test_openai_logprobs(openai_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    top = ((1, b"Hi", -0.5), (2, b"Yo", -1.5))
    engine.script = [Started(7, 0, ()), Delta("Hi", (1,), (logprob(1, "Hi", -0.5, top),)), FINISHED]
    reply = openai_client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,  # type: ignore[arg-type]
        logprobs=True,
        top_logprobs=2,
    )
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.content is not None
    assert [item.token for item in reply.choices[0].logprobs.content[0].top_logprobs] == ["Hi", "Yo"]
    assert engine.requests[0].logprobs == 2


def test_openai_completions(openai_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    reply = openai_client.completions.create(model="tiny", prompt="Once upon", max_tokens=3)
    assert reply.choices[0].text == "Hello world"
    assert "".join(segment.text for segment in engine.requests[0].prompt) == "Once upon", "no chat template"
    stream = openai_client.completions.create(model="tiny", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello world"


def test_openai_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["tiny:latest", "tiny:135m"]
    assert openai_client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("other")


def test_openai_errors_are_typed(openai_client: openai.OpenAI, engine: ScriptedEngine) -> None:
    engine.script = [ContextExceededError(5000, 2048)]
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.chat.completions.create(model="tiny", messages=MESSAGES)  # type: ignore[arg-type]
    assert caught.value.code == "context_length_exceeded"
    assert "5000" in caught.value.message
    assert "2048" in caught.value.message
    engine.script = [Started(7, 0, ()), Delta("a", (1,)), EngineFailedError("the engine was lost")]
    stream = openai_client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError, match="the engine was lost"):
        list(stream)


def test_ollama_chat(ollama_client: ollama.Client, engine: ScriptedEngine) -> None:
    reply = ollama_client.chat(
        "tiny", MESSAGES, options={"temperature": 0, "num_predict": 4, "stop": ["X"], "numa": True}
    )
    assert reply.message.content == "Hello world"
    assert (reply.done, reply.done_reason, reply.eval_count, reply.prompt_eval_count) == (True, "stop", 2, 7)
    assert engine.requests[0].max_tokens == 4
    chunks = list(ollama_client.chat("tiny", MESSAGES, stream=True, keep_alive="5m"))
    assert "".join(chunk.message.content or "" for chunk in chunks) == "Hello world"
    assert engine.keep_alives[-1] == 300


def test_ollama_generate_with_context(ollama_client: ollama.Client, engine: ScriptedEngine) -> None:
    reply = ollama_client.generate("tiny", "Hi", system="Be brief.")
    assert reply.response == "Hello world"
    assert reply.context is not None
    ollama_client.generate("tiny", "More", context=reply.context)
    assert engine.requests[1].prompt[0].tokens == tuple(reply.context)


def test_ollama_lists(ollama_client: ollama.Client) -> None:
    assert [model.model for model in ollama_client.list().models] == ["tiny:latest", "tiny:135m"]
    assert ollama_client.ps().models[0].model == "tiny:latest"
    shown = ollama_client.show("tiny")
    assert shown.template is not None
    assert "im_start" in shown.template


def test_ollama_errors(ollama_client: ollama.Client, engine: ScriptedEngine) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'other' not found") as caught:
        ollama_client.chat("other", MESSAGES)
    assert caught.value.status_code == 404
    engine.script = [Started(7, 0, ()), Delta("a", (1,)), EngineFailedError("the engine was lost")]
    with pytest.raises(ollama.ResponseError, match="the engine was lost"):
        list(ollama_client.chat("tiny", MESSAGES, stream=True))
    with pytest.raises(ollama.ResponseError, match="read-only cache"):
        ollama_client.pull("other")


def test_ollama_logprobs(ollama_client: ollama.Client, engine: ScriptedEngine) -> None:
    engine.script = [Started(7, 0, ()), Delta("Hi", (1,), (logprob(1, "Hi", -0.5),)), FINISHED]
    reply = ollama_client.generate("tiny", "x", logprobs=True)
    assert reply.logprobs is not None
    assert reply.logprobs[0].token == "Hi"
    assert engine.requests[0].logprobs == 0


def test_the_scripted_answers_are_what_the_engine_gives() -> None:
    started, *deltas, finished = answer("a", "b")
    assert isinstance(started, Started)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert finished is FINISHED
