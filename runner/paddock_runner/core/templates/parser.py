"""Parse a Go template as Go's text/template does. Called by the templates' evaluator and by tests. Pure.

What Go accepts is accepted and what Go refuses is refused; only nesting beyond MAX_DEPTH is refused here alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from paddock_runner.core.templates import lexer, nodes
from paddock_runner.core.templates.lexer import TemplateSyntaxError, Token

MAX_DEPTH = 100
_KEYWORDS = frozenset(["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"])
_LITERALS = frozenset({"true", "false", "nil"})
_END = Token("end", "the end of the template", 0)


def parse(source: str, functions: Collection[str]) -> nodes.Parsed:
    """The parsed template. `functions` are the names that it may call. Raises TemplateSyntaxError."""
    return _Parser(list(lexer.tokens(source)), functions).parsed()


class _Parser:
    def __init__(self, tokens: list[Token], functions: Collection[str]) -> None:
        self._tokens, self._at, self._functions = tokens, 0, functions
        self._variables, self._ranges, self._depth = ["$"], 0, 0
        self._defined: dict[str, tuple[nodes.Node, ...]] = {}

    def parsed(self) -> nodes.Parsed:
        found: list[nodes.Node] = []
        while self._peek() is not _END:
            if self._peek().kind == "open" and self._word_after_open() == "define":
                self._define()
            else:
                found.append(self._node())
        return nodes.Parsed(tuple(found), self._defined)

    # Tokens

    def _peek(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _skip_space(self) -> Token:
        while self._peek().kind == "space":
            self._at += 1
        return self._peek()

    def _word_after_open(self) -> str:
        at = self._at + 1
        while at < len(self._tokens) and self._tokens[at].kind == "space":
            at += 1
        return self._tokens[at].text if at < len(self._tokens) and self._tokens[at].kind == "word" else ""

    def _error(self, message: str) -> TemplateSyntaxError:
        known = self._tokens[min(self._at, len(self._tokens) - 1)]
        return TemplateSyntaxError(known.line, message)

    def _expect(self, kind: str, what: str, context: str) -> Token:
        if self._skip_space().kind != kind:
            raise self._error(f"unexpected {self._peek().text!r} in {context}, expected {what}")
        return self._next()

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} levels of nesting")

    # Nodes

    def _node(self) -> nodes.Node:
        token = self._next()
        if token.kind == "text":
            return nodes.Text(token.text)
        word = self._skip_space()
        if word.kind != "word" or word.text not in _KEYWORDS:
            return nodes.Action(self._pipeline("command", "close"))
        self._next()
        if word.text in ("if", "with", "range"):
            return self._branch(word)
        if word.text == "template":
            return self._call(word)
        if word.text == "block":
            return self._block(word)
        if word.text in ("break", "continue"):
            return self._jump(word)
        raise self._error(f"unexpected {{{{{word.text}}}}}")

    def _list(self, context: str) -> tuple[tuple[nodes.Node, ...], str]:
        """The nodes up to `{{end}}` or `{{else`, and which of the two it was."""
        found: list[nodes.Node] = []
        while self._peek() is not _END:
            word = self._word_after_open() if self._peek().kind == "open" else ""
            if word in ("end", "else"):
                self._next()
                self._skip_space()
                self._next()
                if word == "end" or self._skip_space().text not in ("if", "with"):
                    self._expect("close", "}}", word)
                return tuple(found), word
            found.append(self._node())
        raise self._error(f"the template ends inside {context}, expected {{{{end}}}}")

    def _branch(self, word: Token) -> nodes.Branch:
        self._enter()
        scope = len(self._variables)
        kind: Literal["if", "with", "range"] = "if" if word.text == "if" else "with" if word.text == "with" else "range"
        pipeline = self._pipeline(kind, "close")
        self._ranges += kind == "range"
        body, ended = self._list(kind)
        self._ranges -= kind == "range"
        otherwise = self._otherwise(kind) if ended == "else" else None
        del self._variables[scope:]
        self._depth -= 1
        return nodes.Branch(kind, pipeline, body, otherwise)

    def _otherwise(self, kind: str) -> tuple[nodes.Node, ...]:
        token = self._peek()
        if token.kind == "word" and token.text in ("if", "with"):
            if token.text != kind or kind == "range":
                raise self._error(f"unexpected {{{{else {token.text}}}}} in {kind}")
            return (self._branch(self._next()),)
        found, ended = self._list(kind)
        if ended != "end":
            raise self._error(f"a second {{{{else}}}} in {kind}, expected {{{{end}}}}")
        return found

    def _jump(self, word: Token) -> nodes.Jump:
        self._expect("close", "}}", word.text)
        if not self._ranges:
            raise self._error(f"{{{{{word.text}}}}} outside {{{{range}}}}")
        return nodes.Jump("break" if word.text == "break" else "continue")

    def _name(self, context: str) -> str:
        return self._expect("string", "a quoted name", context).text

    def _call(self, word: Token) -> nodes.Call:
        name = self._name("template")
        if self._skip_space().kind == "close":
            self._next()
            return nodes.Call(word.line, name, None)
        return nodes.Call(word.line, name, self._pipeline("template", "close"))

    def _block(self, word: Token) -> nodes.Call:
        name = self._name("block")
        pipeline = self._pipeline("block", "close")
        self._body(name, "block")
        return nodes.Call(word.line, name, pipeline)

    def _define(self) -> None:
        self._next()
        self._skip_space()
        self._next()
        name = self._name("define")
        self._expect("close", "}}", "define")
        self._body(name, "define")

    def _body(self, name: str, context: str) -> None:
        self._enter()
        outer, self._variables = self._variables, ["$"]
        ranges, self._ranges = self._ranges, 0
        body, ended = self._list(context)
        if ended != "end":
            raise self._error(f"unexpected {{{{else}}}} in {context}")
        self._variables, self._ranges = outer, ranges
        self._depth -= 1
        if _is_empty(self._defined.get(name, ())):
            self._defined[name] = body
        elif not _is_empty(body):
            raise self._error(f"template {name} is defined twice")

    # Pipelines

    def _pipeline(self, context: str, end: str) -> nodes.Pipeline:
        line = self._skip_space().line
        variables, declares = self._declared(context)
        commands: list[tuple[nodes.Operand, ...]] = []
        while not self._at_end(end):
            commands.append(self._command())
        self._next()
        if not commands:
            raise self._error(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], 2):
            first = command[0]
            if isinstance(first, nodes.Literally) or (first.start == "." and not first.fields):
                raise self._error(f"stage {stage} of the pipeline is a plain value, expected a function")
        return nodes.Pipeline(line, tuple(commands), variables, declares)

    def _at_end(self, end: str) -> bool:
        token = self._skip_space()
        return token.kind == "close" if end == "close" else token.text == ")" and token.kind == "punctuation"

    def _declared(self, context: str) -> tuple[tuple[str, ...], bool]:
        found: list[str] = []
        while self._skip_space().kind == "variable":
            start, name = self._at, self._next().text
            mark = self._skip_space()
            if mark.kind == "punctuation" and mark.text in (":=", "=", ","):
                self._next()
                found.append(name)
                self._variables.append(name)
                if mark.text != ",":
                    return tuple(found), mark.text == ":="
                self._check_second(context, len(found))
                continue
            self._at = start
            break
        return tuple(found), bool(found)

    def _check_second(self, context: str, count: int) -> None:
        if context != "range" or count > 1:
            raise self._error(f"too many declarations in {context}")
        if self._skip_space().kind not in ("variable", "close"):
            raise self._error("range can only declare variables")

    def _command(self) -> tuple[nodes.Operand, ...]:
        found: list[nodes.Operand] = []
        while True:
            self._skip_space()
            operand = self._operand()
            if operand is not None:
                found.append(operand)
            token = self._peek()
            if token.kind == "space":
                continue
            if token.kind == "close" or token.text == ")":
                break
            if token.text == "|" and token.kind == "punctuation":
                self._next()
                break
            raise self._error(f"unexpected {token.text!r}, expected a space, | or }}}}")
        if not found:
            raise self._error("empty command, expected a value or a function")
        return tuple(found)

    def _operand(self) -> nodes.Operand | None:
        term = self._term()
        if term is None or self._peek().kind != "field":
            return term
        if isinstance(term, nodes.Literally) or (term.start == "." and not term.fields):
            raise self._error(f"unexpected {self._peek().text!r} after a value that has no fields")
        return nodes.Access(term.start, (*term.fields, *self._fields()))

    def _fields(self) -> tuple[str, ...]:
        found: list[str] = []
        while self._peek().kind == "field":
            found.append(self._next().text[1:])
        return tuple(found)

    def _term(self) -> nodes.Operand | None:
        token = self._peek()
        if token.kind in ("string", "char", "number"):
            return nodes.Literally(token.kind, self._next().text)
        if token.kind == "field":
            return nodes.Access(".", self._fields())
        if token.kind == "variable":
            return self._variable(self._next().text)
        if token.kind == "word" and token.text not in _KEYWORDS:
            return self._word(self._next().text)
        if token.kind == "punctuation" and token.text in (".", "("):
            self._next()
            return nodes.Access(".") if token.text == "." else self._parenthesis()
        return None

    def _variable(self, name: str) -> nodes.Access:
        if name not in self._variables:
            raise self._error(f"undefined variable {name}")
        return nodes.Access(name)

    def _word(self, name: str) -> nodes.Operand:
        if name in _LITERALS:
            return nodes.Literally("word", name)
        if name not in self._functions:
            raise self._error(f"function {name} is not defined")
        return nodes.Access(name)

    def _parenthesis(self) -> nodes.Access:
        self._enter()
        inner = self._pipeline("parenthesis", "paren")
        self._depth -= 1
        return nodes.Access(inner)


def _is_empty(body: tuple[nodes.Node, ...]) -> bool:
    return all(isinstance(node, nodes.Text) and not node.text.strip() for node in body)
