"""The template worker: right for honest templates, unimpressed by the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import alive, until

from paddock_runner.core.chat import CHATML
from paddock_runner.core.generation import QueueFullError
from paddock_runner.templating import frames
from paddock_runner.templating.client import MAX_WAITING, ChatTemplateError, TemplateWorker

VARIABLES: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "tools": None,
}


@pytest.fixture
async def worker() -> AsyncIterator[TemplateWorker]:
    worker = TemplateWorker()
    yield worker
    await worker.close()


async def test_chatml(worker: TemplateWorker) -> None:
    rendered = await worker.render(CHATML, VARIABLES)
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{%- for m in messages %}\n  {{- m.content | trim }}\n{% endfor %}", "hi\n"),
        ("{{ {'b': 1, 'ä': '<&>'} | tojson }}", '{"b": 1, "ä": "<&>"}'),
        ("{{ {'a': [1]} | tojson(indent=1) }}", '{\n "a": [\n  1\n ]\n}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}x{{ bos_token }}{% endgeneration %}", "x<s>"),
        ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% if tools is not none %}t{% else %}n{% endif %}{{ missing }}", "n"),
        ("{{ messages[0]['content'].split('i')[0] }}{{ 'a' if messages | length == 1 }}", "ha"),
        ("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('q') }}", "[q]"),
    ],
)
async def test_what_templates_in_the_wild_use(worker: TemplateWorker, template: str, text: str) -> None:
    assert await worker.render(template, VARIABLES) == text


async def test_strftime_now_is_a_date(worker: TemplateWorker) -> None:
    assert (await worker.render("{{ strftime_now('%Y-%m') }}", {})).startswith("20")


async def test_raise_exception_is_told_in_the_templates_words(worker: TemplateWorker) -> None:
    with pytest.raises(ChatTemplateError, match="roles must alternate") as caught:
        await worker.render("{{ raise_exception('roles must alternate') }}", VARIABLES)
    assert caught.value.kind == "raised"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].system('id') }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
        "{{ ('%(a)s' | attr('__class__')).mro() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% if %}",
        "{{ messages[0].content.no.such }}",
        "{{ 1 // 0 }}",
        "{{ '\\ud800' }}",
    ],
)
async def test_attacks_and_mistakes_are_typed_errors(worker: TemplateWorker, template: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        await worker.render(template, VARIABLES)
    assert caught.value.kind == "broken"
    assert len(str(caught.value)) < 500
    assert await worker.render(CHATML, VARIABLES)
    assert worker.starts == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 10**7 }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
async def test_gigabytes_are_refused_soon(worker: TemplateWorker, template: str) -> None:
    began = time.monotonic()
    with pytest.raises(ChatTemplateError) as caught:
        await worker.render(template, VARIABLES)
    assert caught.value.kind == "limit"
    assert time.monotonic() - began < frames.DEADLINE_SECONDS + 1


@pytest.mark.parametrize(
    "template",
    ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 10 ** 99999999 }}"],
)
async def test_an_endless_template_is_killed_and_the_next_one_renders(template: str) -> None:
    worker = TemplateWorker(deadline=0.3)
    try:
        began = time.monotonic()
        with pytest.raises(ChatTemplateError, match=r"longer than 0\.3 s") as caught:
            await worker.render(template, VARIABLES)
        assert time.monotonic() - began < 1.5
        assert caught.value.kind == "limit"
        assert await worker.render(CHATML, VARIABLES)
        assert worker.starts == 2
    finally:
        await worker.close()


async def test_a_caller_that_leaves_does_not_confuse_the_next(worker: TemplateWorker) -> None:
    await worker.start()
    for number in range(20):
        leaver = asyncio.create_task(worker.render(f"leaver {number}", {}))
        await asyncio.sleep(0)
        leaver.cancel()
        assert await worker.render(f"stays {number}", {}) == f"stays {number}"
    assert worker.starts == 1


async def test_a_killed_worker_is_replaced(worker: TemplateWorker) -> None:
    await worker.start()
    assert worker.pid is not None
    pid = worker.pid
    os.kill(pid, 9)
    await until(lambda: worker.pid is None or not alive(pid))
    with contextlib.suppress(ChatTemplateError):  # the front may not have heard of its death yet
        await worker.render("x", {})
    assert await worker.render("x", {}) == "x"
    assert worker.pid != pid


async def test_the_queue_is_bounded() -> None:
    worker = TemplateWorker(deadline=5)
    tasks = [asyncio.create_task(worker.render("x", {})) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await worker.render("x", {})
    assert await asyncio.gather(*tasks) == ["x"] * MAX_WAITING
    await worker.close()


async def test_the_worker_is_small_and_has_no_secrets(worker: TemplateWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_SECRET", "s3cret")
    await worker.start()
    process = Path(f"/proc/{worker.pid}")
    assert "s3cret" not in (process / "environ").read_text()
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 40 * 1024 * 1024


def test_frames_are_bounded() -> None:
    with pytest.raises(ValueError, match="exceeds the limit"):
        frames.pack({"text": "x" * 100}, 50)
    with pytest.raises(ValueError, match="must hold an object"):
        frames.unpack(b"[]")
