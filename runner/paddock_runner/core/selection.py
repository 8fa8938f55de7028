"""Which GGUF files of a repository are the model: by path, by the word of a quantization, or by the usual default.

Called by `sources.huggingface` with the paths of one commit. Pure. The rules are those of llama.cpp's `-hf REPO:QUANT`
and of `hf.co/REPO:QUANT` in Ollama, except that nothing is guessed: where several models fit, the error lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from paddock_runner.core.shards import SplitFile, group, is_gguf

DEFAULTS = ("Q4_K_M", "Q8_0")
"""What is taken when nobody says: llama.cpp's order. Without either, a repository's only model, else an error."""

UNQUANTIZED = ("BF16", "F16", "F32")
"""What a conversion starts from, best first."""

_PROJECTORS = ("F16", "BF16", "Q8_0", "F32")
_SAME = {
    "F16": ("F16", "FP16"),
    "F32": ("F32", "FP32"),
    "Q3_K": ("Q3_K", "Q3_K_M"),
    "Q4_K": ("Q4_K", "Q4_K_M"),
    "Q5_K": ("Q5_K", "Q5_K_M"),
}
_BESIDE = ("mmproj", "imatrix")
_DRAFTS = ("mtp-", "eagle3-", "dflash-", "dspark-")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_TYPE = re.compile(r"[IT]?Q\d|B?FP?\d|MXFP\d", re.IGNORECASE)
_SHOWN_FILES = 20
_SHOWN_CHARACTERS = 100


class SelectionError(ValueError):
    """No choice can be made; the message says why, what there is and what to write."""


class NothingFitsError(SelectionError):
    """The repository does not hold what was asked for."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The paths of the model (several are the parts of a split file, in order) and of its projector."""

    model: tuple[str, ...]
    projector: str | None = None


def select(
    paths: Iterable[str], *, file: str | None = None, quantization: str | None = None, convertible: bool = False
) -> Selection:
    """Choose among `paths`. `file` is an exact path and wins; `quantization` is a word such as Q4_K_M, in any case.

    `convertible` takes an unquantized model where no file has the wanted quantization, for a conversion afterwards.
    Raises NothingFitsError and SelectionError; both list what there is.
    """
    everything = sorted(set(paths))
    files = [path for path in everything if is_gguf(path)]
    models = group(path for path in files if not is_helper(path))
    if file is not None:
        chosen = _by_file(files, file)
    elif not models:
        raise _without_models(everything)
    elif quantization is not None:
        chosen = _by_word(models, quantization, convertible)
    else:
        chosen = _default(models)
    _check_complete(chosen)
    return Selection(chosen.paths, _projector(files, chosen.paths[0]))


def is_helper(path: str) -> bool:
    """Whether the file goes beside a model instead of being one: projectors, importance matrices, draft heads."""
    name = PurePosixPath(path).name
    # Draft heads are told by case: MTP- in capitals is part of names of whole models.
    return any(word in name.lower() for word in _BESIDE) or any(word in name for word in _DRAFTS)


def _by_file(files: Sequence[str], file: str) -> SplitFile:
    for candidate in group(files):
        if file in candidate.paths:
            return candidate
    raise NothingFitsError(f"there is no file {file[:_SHOWN_CHARACTERS]!r}; {_listed('GGUF files', files)}")


def _by_word(models: Sequence[SplitFile], word: str, convertible: bool) -> SplitFile:
    found = _matching(models, word)
    if not found and convertible:
        found = next(filter(None, (_matching(models, unquantized) for unquantized in UNQUANTIZED)), [])
    if not found:
        raise NothingFitsError(f"no GGUF file is named {word[:40]}; {_listed('models', _names(models))}")
    return _only(found, f"named {word[:40]}")


def _default(models: Sequence[SplitFile]) -> SplitFile:
    for word in DEFAULTS:
        if found := _matching(models, word):
            return _only(found, f"named {word}")
    return _only(models, f"there and none is named {' or '.join(DEFAULTS)}")


def _only(models: Sequence[SplitFile], what: str) -> SplitFile:
    if len(models) == 1:
        return models[0]
    raise SelectionError(
        f"{len(models)} models are {what}; choose one with file or quantization: {_listed('models', _names(models))}"
    )


def _matching(models: Sequence[SplitFile], word: str) -> list[SplitFile]:
    """The models that the word names, judged by the strictest reading under which there is any."""
    words = _SAME.get(word.upper(), (word,))
    for spelling in words:
        for reading in _READINGS:
            if found := _whole_first([model for model in models if reading(model.stem, spelling)]):
                return found
    return []


def _whole_first(models: list[SplitFile]) -> list[SplitFile]:
    """A whole file and a split one of the same stem are the same model; the whole one is simpler."""
    whole = {model.stem for model in models if model.count == 1}
    return [model for model in models if model.count == 1 or model.stem not in whole]


def _holds(text: str, word: str, before: str) -> bool:
    return re.search(rf"{before}{re.escape(word)}(?=$|[-./])", text, re.IGNORECASE) is not None


def _plain(stem: str, word: str) -> bool:
    name = PurePosixPath(stem).name
    return _holds(name, word, r"(?<![A-Za-z0-9_])(?<!\bUD-)(?<!\bi1-)")


def _prefixed(stem: str, word: str) -> bool:
    return _holds(PurePosixPath(stem).name, word, r"(?<![A-Za-z0-9_])")


def _underscored(stem: str, word: str) -> bool:
    # Only what begins as types do: XS is not a type, though IQ4_XS ends with it.
    return _TYPE.match(word) is not None and _holds(PurePosixPath(stem).name, word, r"(?<![A-Za-z0-9])")


def _in_folder(stem: str, word: str) -> bool:
    return _holds(str(PurePosixPath(stem).parent), word, r"(?<![A-Za-z0-9_])")


_READINGS: tuple[Callable[[str, str], bool], ...] = (_plain, _prefixed, _underscored, _in_folder)
"""A component of the name; one after the mark of a variant (UD-, i1-); one after an underscore; one of a folder."""


def _check_complete(chosen: SplitFile) -> None:
    if not chosen.missing:
        return
    number = chosen.missing[0]
    part = f"{chosen.stem}-{number:05}-of-{chosen.count:05}.gguf"
    raise NothingFitsError(
        f"the split model is not whole: {part[-_SHOWN_CHARACTERS:]!r} is missing "
        f"({len(chosen.missing)} of {chosen.count} parts are)"
    )


def _projector(files: Sequence[str], model: str) -> str | None:
    """The projector nearest to the model: in its folder or one above, of the type that every backend computes."""
    if is_helper(model):
        return None
    above = PurePosixPath(model).parents
    found = [path for path in files if "mmproj" in PurePosixPath(path).name.lower()]
    near = [path for path in found if PurePosixPath(path).parent in above]
    return min(near, key=lambda path: (above.index(PurePosixPath(path).parent), _type_rank(path), path), default=None)


def _type_rank(path: str) -> int:
    stem = group([path])[0].stem
    ranks = (index for index, word in enumerate(_PROJECTORS) if any(_underscored(stem, same) for same in _same(word)))
    return next(ranks, len(_PROJECTORS))


def _same(word: str) -> tuple[str, ...]:
    return _SAME.get(word, (word,))


def _without_models(paths: Sequence[str]) -> SelectionError:
    weights = [path for path in paths if path.lower().endswith(_WEIGHTS)]
    if weights:
        return SelectionError(
            "the repository has no GGUF file, only weights that must be converted first (for example "
            f"{weights[0][:_SHOWN_CHARACTERS]!r}); convert them with llama.cpp's convert_hf_to_gguf.py, or take a "
            "repository of GGUF files of the same model"
        )
    return NothingFitsError(f"the repository has no GGUF model; {_listed('files', paths)}")


def _names(models: Iterable[SplitFile]) -> list[str]:
    return [model.paths[0] for model in models]


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return f"there are no {what}"
    shown = ", ".join(name[-_SHOWN_CHARACTERS:] for name in names[:_SHOWN_FILES])
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return f"there are these {what}: {shown}{more}"
